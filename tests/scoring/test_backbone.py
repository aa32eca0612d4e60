"""The decoder is called alike for every architecture."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache

from rgtg_hf.scoring.backbone import Backbone
from tests.tiny_models import FAMILIES, tiny_reward_model


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hidden_states_are_those_of_the_decoder(family):
    model = tiny_reward_model(family)
    backbone = Backbone(model)
    assert backbone.is_recurrent == (family == "jamba")
    ids = torch.tensor([[5, 6, 7, 8]])
    cache = DynamicCache(config=backbone.config) if backbone.is_recurrent else DynamicCache()
    found = backbone.read(ids, torch.ones_like(ids), torch.arange(4)[None], cache)
    assert_close(found, model.base_model(input_ids=ids).last_hidden_state, atol=1e-4, rtol=1e-4)
