"""Keys and values come back from the places where they were put, and rows can be moved."""

import torch
from torch.testing import assert_close
from transformers import DynamicCache

from rgtg_hf.scoring.sibling_cache import SiblingCache

HEADS, SIZE = 2, 3


def states(rows, count):
    return torch.randn(rows, HEADS, count, SIZE), torch.randn(rows, HEADS, count, SIZE)


def test_tokens_are_written_to_their_places_and_rows_may_be_read_in_part():
    cache = SiblingCache()
    cache.place_next(2, None, torch.tensor([[0, 1], [1, 0]]), 2)
    first = states(2, 2)
    found = cache.update(*first, 0)
    for one, part in zip(found, first, strict=True):
        assert_close(one[0], part[0])
        assert_close(one[1], part[1].flip(1))
    cache.place_next(3, torch.tensor([2, 1]), torch.tensor([[0], [3]]), 4)  # a third row, and wider
    second = states(2, 1)
    found = cache.update(*second, 0)
    for one, part, before in zip(found, second, first, strict=True):
        assert one.shape == (2, HEADS, 4, SIZE)
        assert_close(one[0, :, 0], part[0, :, 0])
        assert_close(one[1, :, 3], part[1, :, 0])
        assert_close(one[1, :, :2], before[1].flip(1))
    assert cache.get_seq_length() == 4


def test_rows_are_reordered_copied_and_taken_from_an_ordinary_cache():
    ordinary, cache = DynamicCache(), SiblingCache()
    keys, values = states(2, 3)
    ordinary.update(keys, values, 0)
    cache.store(ordinary, torch.tensor([0, 2]), torch.tensor([1, 0]), 3)
    held = cache.layers[0].keys.transpose(1, 2)
    assert_close(held[0, :, :3], keys[1])
    assert_close(held[2, :, :3], keys[0])
    assert ordinary.layers[0].keys is None
    cache.copy_row(0, 1)
    cache.reorder_cache(torch.tensor([2, 1]))
    held = cache.layers[0].keys.transpose(1, 2)
    assert_close(held[:, :, :3], keys)
