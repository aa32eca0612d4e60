"""Continuations are read beside one another, shared beginnings once, and places in the cache are used again."""

import pytest
from torch.testing import assert_close

from rgtg_hf.scoring.sequences import WholeReader
from rgtg_hf.scoring.sibling_reader import SiblingReader
from tests.tiny_models import tiny_reward_model


def test_beginnings_that_continuations_share_are_read_once():
    reward_model = tiny_reward_model()
    reader, whole = SiblingReader(reward_model), WholeReader(reward_model)
    prefix, continuations = [5, 6, 7], [[8, 9, 10], [8, 9], [8, 9, 10, 11], [12], [], [8, 13]]
    found = reader.read([prefix], [continuations])
    assert_close(found, whole.read([prefix], [continuations]), atol=1e-4, rtol=1e-4)
    assert reader.tokens_computed == 3 + 6
    before = reader.tokens_computed
    reader.read([[*prefix, 8, 9, 10, 14]], [[[15]]])  # goes on from the continuation
    assert reader.tokens_computed - before == 2


def test_a_batch_that_shrinks_keeps_no_memory_of_rows_that_are_gone():
    reader = SiblingReader(tiny_reward_model())
    prefixes = [list(range(3 + row, 23 + row)) for row in range(4)]
    reader.read(prefixes, [[[5]]] * 4)
    reader.read([[*prefix, 5, 6] for prefix in prefixes[:2]], [[[7]]] * 2)
    assert {len(layer.keys) for layer in reader.cache.layers} == {2}


def test_named_rows_keep_what_was_read_of_them_and_the_last_can_replace_another():
    reward_model = tiny_reward_model()
    reader, whole = SiblingReader(reward_model), WholeReader(reward_model)
    prefixes = [[5, 6, 7], [8, 9, 10, 11], [12, 13]]
    reader.read_rows([0, 1, 2], prefixes, [[[]]] * 3)
    before = reader.tokens_computed
    with pytest.raises(ValueError, match="not the last"):
        reader.replace_row(1, 0)
    reader.replace_row(2, 0)  # [12, 13] is row 0 now
    found = reader.read_rows([1, 0], [[*prefixes[1], 3], prefixes[2]], [[[], [4]], [[5]]])
    expected = whole.read([[*prefixes[1], 3], prefixes[2]], [[[], [4]], [[5]]])
    assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert reader.tokens_computed - before == 2 * 2  # two rows, padded to the longer one: a token and a continuation
    reader.replace_row(1, 1)
    reader.replace_row(0, 0)
    assert not reader.cache.layers


def test_recurrent_models_are_refused():
    with pytest.raises(ValueError, match="recurrent state"):
        SiblingReader(tiny_reward_model("jamba"))
