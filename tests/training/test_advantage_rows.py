"""A response is compared with the others to its prompt, and batches hold what the policy said of it."""

import math

import pytest
import torch
from datasets import Dataset
from torch.testing import assert_close

from rgtg_hf import NextTokenRewardModel
from rgtg_hf.training.advantage_rows import AdvantageCollator, compared_rollouts
from rgtg_hf.training.hidden_state_store import HiddenStateStore
from tests.training.helpers import make_policy, make_tokenizer


def row(prompt, completion, reward, log_ratios=()):
    return {"prompt_ids": prompt, "completion_ids": completion, "reward": reward, "log_ratios": list(log_ratios)}


def compared(rows, max_length=None, max_weight=10.0):
    return compared_rollouts(Dataset.from_list(rows), "training", make_tokenizer(), max_length, max_weight)


def test_the_only_response_to_a_prompt_is_dropped():
    rows, dropped = compared([row([5], [6], 1.0), row([5], [7, 8], 3.0), row([6], [7], 9.0)])
    assert dropped == 1
    assert rows["surplus"] == [-2.0, 2.0]
    assert rows["input_ids"] == [[5, 6], [5, 7, 8]]


def test_a_long_response_does_not_count_among_the_others():
    rows, dropped = compared([row([5], [6], 1.0), row([5], [7], 3.0), row([5], [7] * 9, 9.0)], max_length=4)
    assert (rows["surplus"], dropped) == ([-2.0, 2.0], 1)


def test_guided_responses_weigh_in_the_mean_what_they_would_under_the_policy():
    ratios = [[math.log(0.5)], [math.log(2.0), math.log(3.0)], [math.log(99.0)], [-9999.0]]
    rows, _ = compared([row([5], [6] * len(own), reward, own) for reward, own in enumerate(ratios)], max_weight=8.0)
    total = 0.5 * 0 + 6 * 1 + 8 * 2
    assert rows["surplus"] == pytest.approx([0 - total / 14, 1 - 16 / 8.5, 2 - 6 / 6.5, 3 - total / 14.5])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row([5], [6], 1.0), row([6], [6], 1.0)], "No prompt of the training data set has two responses"),
        ([row([5], [6], 1.0), row([5], [7], 1.0)], "equal rewards"),
        ([row([5], [6], 1.0), row([5], [7], math.nan)], "Row 2 of the training data set has no usable `reward`"),
        ([row([5], [6], 1.0), row([5], [], 2.0)], "an empty response"),
    ],
)
def test_rows_that_say_nothing_are_refused(rows, words):
    with pytest.raises(ValueError, match=words):
        compared(rows)


def test_a_batch_holds_the_hidden_state_and_the_candidates_before_each_token(tmp_path):
    policy = make_policy()
    head = NextTokenRewardModel.from_policy(policy, rank=2)
    rows, _ = compared([row([5, 9], [6], 1.0), row([5, 9], [7, 8], 3.0)])
    store = HiddenStateStore(tmp_path, head, policy, top_k=3)
    store.add([(own["input_ids"], own["prompt_length"]) for own in rows], progress=False)
    batch = AdvantageCollator(store, unit=4.0)(list(rows))
    assert batch["input_ids"].tolist() == [[9, 6, 0], [9, 7, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["surpluses"].tolist() == [-0.5, 0.5]
    output = policy(torch.tensor([[5, 9, 7, 8]]), output_hidden_states=True)
    ids, probabilities = batch["candidates"]
    expected = output.logits[0, 1:3].topk(3)
    assert torch.equal(ids[1, :2], expected.indices)
    assert_close(probabilities[1, :2], expected.values.softmax(-1), atol=1e-5, rtol=1e-4)
    assert not probabilities[0, 1:].any()
    assert_close(batch["hidden_states"][1, :2], output.hidden_states[-1][0, 1:3], atol=1e-5, rtol=1e-4)
