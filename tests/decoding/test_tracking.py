"""A generation's begin and the rows that have ended are told from the token ids alone."""

import pytest
import torch

from rgtg_hf.decoding.tracking import GenerationTracker
from tests.tiny_models import EOS, PAD


def settled(tracker, input_ids):
    """Whether a call begins a generation: compared, looked at, and taken note of."""
    return tracker.settle(input_ids, *tracker.flags(input_ids).tolist())


def follow(*calls, tracker=None):
    """Whether each of the calls begins a generation."""
    tracker = tracker or GenerationTracker([EOS], PAD)
    return [settled(tracker, torch.tensor(rows)) for rows in calls]


@pytest.mark.parametrize(
    ("calls", "begins"),
    [
        ([[[5, 6]], [[5, 6, 7]], [[5, 6, 7, 8]]], [True, False, False]),
        ([[[5, 6]], [[5, 6]]], [True, True]),  # the same prompt again
        ([[[5, 6]], [[5, 7, 8]]], [True, True]),
        ([[[5, 6]], [[5, 6, 7, 8]]], [True, True]),  # a longer prompt that begins like it
        ([[[5, 6]], [[5, 6, 7]], [[5, 6, 7, 8]], [[5, 6, 9]]], [True, False, False, False]),  # a draft is dropped
        ([[[5], [6]], [[5, 7], [6, 8]], [[6, 8, 9], [5, 7, 9]]], [True, False, True]),  # prompts changed places
        ([[[5], [5]], [[5, 7], [5, 8]], [[5, 8, 9], [5, 8, 10]]], [True, False, False]),  # beams were reordered
        ([[[5], [5]], [[5, 7], [5, 8]], [[5, 9]]], [True, False, True]),  # other rows
        ([[[5], [6]], [[5, 7], [6, 8]], [[5, 9], [6, 9]]], [True, False, True]),  # batches have no drafts
    ],
)
def test_a_generation_begins_where_its_rows_continue_none(calls, begins):
    assert follow(*calls) == begins


def test_rows_that_share_a_prompt_may_be_beams():
    tracker = GenerationTracker()
    follow([[5, 6], [5, 6], [7, 8]], tracker=tracker)
    assert (tracker.may_be_beams, tracker.prompt_length) == (True, 2)
    follow([[5, 6, 9], [7, 8, 9]], tracker=tracker)
    assert (tracker.may_be_beams, tracker.prompt_length) == (False, 3)


def test_a_row_has_ended_when_padding_follows_its_end_token():
    tracker = GenerationTracker([EOS, 9], PAD)
    rows = [
        [5, EOS, 11, 12],  # the prompt's own end token does not count
        [5, 6, EOS, PAD],
        [5, 6, 9, PAD],
        [5, 6, 11, EOS],
        [5, 6, EOS, 12],  # generate() was told to ignore it
        [5, 6, PAD, PAD],
    ]
    for length in (2, 3, 4):
        settled(tracker, torch.tensor(rows)[:, :length])
    ids, yes = torch.tensor(rows), torch.tensor(True)
    assert tracker.going_on(ids, yes).tolist() == [True, False, False, True, True, True]
    assert tracker.going_on(ids, ~yes).all()  # a generation begins
    assert tracker.past_end().tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize(("eos", "pad"), [([], PAD), ([EOS], None)])
def test_all_rows_go_on_where_an_end_cannot_be_told(eos, pad):
    tracker = GenerationTracker(eos, pad)
    follow([[5]], [[5, EOS]], [[5, EOS, PAD]], tracker=tracker)
    assert tracker.going_on(torch.tensor([[5, EOS, PAD]]), torch.tensor(True)).tolist() == [True]
