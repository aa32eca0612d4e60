"""The cache holds for each row the tokens that were read of it, wherever the rows go."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.scoring.prefix_cache import PrefixCache, as_columns, positions_of, rearrange_cache
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
        rows = wanted.any(-1)
        if rows.any():
            columns = as_columns(prefixes)
            found, expected = cache.read(columns, rows), PrefixCache(model).read(columns)
            assert_close(found[rows], expected[rows], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_row_that_lies_behind_is_kept():
    cache = PrefixCache(tiny_reward_model())
    columns = torch.randint(40, (3, 12), generator=torch.Generator().manual_seed(0))
    cache.read(columns[:, :8])
    counts = []
    for end, wanted in ((9, [1, 1, 0]), (10, [1, 0, 0]), (11, [1, 1, 0]), (12, [1, 1, 1])):
        before = cache.tokens_computed
        cache.read(columns[:, :end], torch.tensor(wanted) > 0)
        counts.append(cache.tokens_computed - before)
    # Where a row catches up, those that are read with it read as many tokens.
    assert counts == [2, 1, 2 * 2, 3 * 4]


def test_padding_is_no_token_and_has_no_position():
    prefixes = PrefixBatch(torch.tensor([[0, 0, 5, 6]]), torch.tensor([[0, 0, 1, 1]]), 4)
    columns = as_columns(prefixes)
    assert columns.tolist() == [[-1, -1, 5, 6]]
    assert positions_of(columns).tolist() == [[0, 0, 0, 1]]


@torch.no_grad()
def test_a_copy_may_have_other_rows_and_columns():
    cache = PrefixCache(tiny_reward_model())
    cache.read(torch.tensor([[5, 6, 7], [8, 9, 10]]))
    copy = rearrange_cache(cache.cache, torch.tensor([1, 0, 1]), torch.tensor([[0, 1], [1, 2], [2, 0]]))
    held, found = cache.cache.layers[0].keys, copy.layers[0].keys
    assert_close(found[1], held[0, :, 1:])
    assert_close(found[2], held[1][:, [2, 0]])
