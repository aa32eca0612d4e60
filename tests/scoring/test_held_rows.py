"""The bookkeeping of rows, tried without a model."""

import torch

from rgtg_hf.scoring.held_rows import HeldRow, HeldTokens, NewTokens, common_length


def row_of(prefix, *continuations):
    """A row that has read these tokens in the order given; a token's reward is its own id."""
    row = HeldRow()
    row.prefix = HeldTokens(list(prefix), row.take_places(len(prefix)), list(prefix))
    for tokens in continuations:
        row.continuations.append(HeldTokens(list(tokens), row.take_places(len(tokens)), list(tokens)))
    return row


def test_common_length_is_that_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        one, other = (
            torch.randint(2, (int(torch.randint(9, (1,), generator=generator)),), generator=generator).tolist()
            for _ in range(2)
        )
        expected = 0
        while expected < min(len(one), len(other)) and one[expected] == other[expected]:
            expected += 1
        assert common_length(one, other) == expected


def test_a_row_goes_on_from_the_continuation_that_became_part_of_its_prefix():
    row = row_of([5, 6], [7, 8], [7, 9, 1], [4])
    row.follow([5, 6, 7, 9, 3])
    assert (row.prefix.tokens, row.prefix.places, row.prefix.rewards) == ([5, 6, 7, 9], [0, 1, 4, 5], [5, 6, 7, 9])
    assert (row.free, row.top, row.continuations) == ([2, 3], 6, [])
    assert row.take_places(3) == [2, 3, 6]


def test_a_row_is_cut_back_where_it_disagrees():
    row = row_of([5, 6, 7], [8])
    row.follow([5, 9])
    assert (row.prefix.tokens, row.free, row.top) == ([5], [], 1)


def test_a_copy_changes_alone():
    row = row_of([5, 6], [7])
    other = row.copy()
    other.follow([5])
    assert row.prefix.tokens == [5, 6]
    assert [one.tokens for one in row.continuations] == [[7]]


def test_new_tokens_hold_shared_beginnings_once_and_know_who_continues_them():
    new = NewTokens([5, 6, 7], 1, [(8, 9), (8,), (8, 10), (11,)])
    assert new.ids == [6, 7, 8, 9, 10, 11]
    assert new.positions == [1, 2, 3, 4, 4, 3]
    assert new.ends == [6, 6, 5, 4, 5, 6]
    assert new.paths == {(8,): [2], (8, 9): [2, 3], (8, 10): [2, 4], (11,): [5]}
    assert new.padded(7) == [[6, 7, 8, 9, 10, 11, -1], [1, 2, 3, 4, 4, 3, 0], [6, 6, 5, 4, 5, 6, 7]]
