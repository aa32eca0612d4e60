"""The cache holds for each row the tokens that were read of it, wherever the rows go."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.scoring.prefix_cache import PrefixCache, as_columns, positions_of
from rgtg_hf.scoring.scorer import PrefixBatch
from tests.scoring.generations import partly_wanted
from tests.tiny_models import tiny_reward_model


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gpt_neo", "bloom", "jamba"])
@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_hidden_states_are_those_of_a_cache_that_holds_nothing(family, seed):
    model = tiny_reward_model(family)
    cache = PrefixCache(model)
    for prefixes, _, wanted in partly_wanted(seed):
        if wanted.any():
            columns = as_columns(prefixes)
            assert_close(cache.read(columns), PrefixCache(model).read(columns), atol=1e-4, rtol=1e-4)


def test_padding_is_no_token_and_has_no_position():
    prefixes = PrefixBatch(torch.tensor([[0, 0, 5, 6]]), torch.tensor([[0, 0, 1, 1]]), 4)
    columns = as_columns(prefixes)
    assert columns.tolist() == [[-1, -1, 5, 6]]
    assert positions_of(columns).tolist() == [[0, 0, 0, 1]]
