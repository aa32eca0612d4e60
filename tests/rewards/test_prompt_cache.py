"""The cache of a prompt serves several rows where the model keeps nothing but keys and values."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.rewards.prompt_cache import is_recurrent, shared_cache
from tests.families import tiny_language_model

PROMPT = torch.tensor([[5, 6, 7, 8]])


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_rows_go_on_from_a_repeated_cache_as_after_the_whole_text(family):
    model = tiny_language_model(family)
    rows = torch.tensor([[9, 10], [11, 12], [13, 14]])
    shared = shared_cache(model, PROMPT.shape[1], partial(model, PROMPT, use_cache=True))
    for cache in shared.values():
        cache.reorder_cache(torch.zeros(len(rows), dtype=torch.long))
    found = model(rows, attention_mask=torch.ones(3, 6), **shared).logits
    whole = model(torch.cat([PROMPT.expand(3, -1), rows], dim=1)).logits[:, PROMPT.shape[1] :]
    assert_close(found, whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("family", "recurrent"), [("llama", False), ("gemma2", False), ("jamba", True)])
def test_the_state_of_recurrent_layers_is_not_shared(family, recurrent):
    model = tiny_language_model(family)
    assert is_recurrent(model) == recurrent
    assert bool(shared_cache(model, PROMPT.shape[1], partial(model, PROMPT, use_cache=True))) != recurrent


@torch.no_grad()
def test_a_cache_that_was_not_kept_or_holds_other_columns_is_not_shared():
    model = tiny_language_model("llama")
    assert shared_cache(model, PROMPT.shape[1], partial(model, PROMPT, use_cache=False)) == {}
    assert shared_cache(model, PROMPT.shape[1] + 1, partial(model, PROMPT, use_cache=True)) == {}
