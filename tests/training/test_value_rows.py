"""Rated responses become the tokens that decoding reads, and rows that cannot be used are named."""

import math

import pytest
import torch
from datasets import Dataset
from torch.testing import assert_close

from rgtg_hf.rewards.pairs import pair_ids
from rgtg_hf.training.value_rows import ValueCollator, located_rollouts, rollout_ids
from tests.training.helpers import make_tokenizer

TOKENIZER = make_tokenizer()
TEXT = {"prompt": "b?", "completion": "ac", "reward": 0.5}


def messages(row):
    return row | {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "completion": [{"role": "assistant", "content": row["completion"]}],
    }


@pytest.mark.parametrize("row", [TEXT, messages(TEXT)], ids=["text", "messages"])
def test_the_tokens_are_those_of_a_pair(row):
    other = messages({**TEXT, "completion": "z"})["completion"] if isinstance(row["prompt"], list) else "z"
    pair = pair_ids({"prompt": row["prompt"], "chosen": row["completion"], "rejected": other}, TOKENIZER)
    found = rollout_ids(row, TOKENIZER)
    assert found == {
        "input_ids": pair["chosen_ids"],
        "prompt_length": pair["prompt_length"],
        "reward": 0.5,
        "log_ratios": [],
    }
    assert found["input_ids"][-1] == TOKENIZER.eos_token_id


def test_a_response_that_was_cut_off_has_no_end():
    whole = rollout_ids(TEXT, TOKENIZER)["input_ids"]
    assert rollout_ids(TEXT | {"finished": False}, TOKENIZER)["input_ids"] == whole[:-1]


def test_tokens_that_are_given_are_taken():
    row = messages(TEXT) | {"prompt_ids": [9, 8], "completion_ids": [7, 7, 2]}
    found = rollout_ids(row, TOKENIZER)
    assert (found["input_ids"], found["prompt_length"]) == ([9, 8, 7, 7, 2], 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reward": math.nan}, "Row 2 of the training data set has no usable `reward`: it is nan"),
        ({"reward": None}, "no usable `reward`: it is None"),
        ({"prompt": None}, "no usable `prompt`"),
        ({"completion": ""}, "no usable `completion`"),
        ({"prompt_ids": [5], "completion_ids": []}, "an empty response"),
        ({"prompt_ids": [], "completion_ids": [5]}, "no token of the prompt"),
        ({"log_ratios": [0.5]}, "1 `log_ratios`, but its response has 3 tokens"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(change, says):
    with pytest.raises(ValueError, match=says):
        located_rollouts(
            Dataset.from_list([dict.fromkeys(change) | TEXT, TEXT | change]), "training", TOKENIZER, None, (0.0, 1.0)
        )


def test_a_reward_outside_of_the_range_is_named_by_its_place_in_the_data():
    rows = [TEXT | {"completion": "abcdefgh"}, TEXT | {"reward": 1.5}]
    with pytest.raises(ValueError, match=r"Row 2 of the training data set has a reward of 1.5, but the"):
        located_rollouts(Dataset.from_list(rows), "training", TOKENIZER, 8, (0.0, 1.0))


def test_an_evaluation_may_have_rewards_outside_of_the_range_and_says_how_many(caplog):
    rows = Dataset.from_list([TEXT, TEXT | {"reward": 1.5}, TEXT | {"reward": -2.0}, TEXT | {"reward": 1.0}])
    kept, _ = located_rollouts(rows, "evaluation", TOKENIZER, None, (0.0, 1.0), may_be_outside=True)
    assert kept["reward"] == [0.5, 1.5, -2.0, 1.0]
    assert "2 of the 4 rewards of the evaluation data set are outside" in caplog.text


def test_rows_that_are_too_long_are_dropped():
    rows = Dataset.from_list([TEXT, TEXT | {"completion": "abcdefgh"}])
    kept, dropped = located_rollouts(rows, "training", TOKENIZER, 8, (0.0, 1.0))
    assert (len(kept), dropped) == (1, 1)
    with pytest.raises(ValueError, match="longer than `max_length`"):
        located_rollouts(rows, "training", TOKENIZER, 2, (0.0, 1.0))
    with pytest.raises(ValueError, match="is empty"):
        located_rollouts(Dataset.from_list([]), "training", TOKENIZER, None, (0.0, 1.0))


def test_a_batch_says_where_prefixes_end():
    rows = [
        {"input_ids": [5, 6, 7], "prompt_length": 1, "reward": 1.0, "log_ratios": [0.5, -1.0]},
        {"input_ids": [5, 6, 7, 8], "prompt_length": 3, "reward": -1.0, "log_ratios": []},
    ]
    batch = ValueCollator(pad_token_id=0)(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 0], [5, 6, 7, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["is_prefix"].tolist() == [[True, True, True, False], [False, False, True, True]]
    assert torch.equal(batch["rewards"], torch.tensor([1.0, -1.0]))
    # Before a token that the guided policy liked better, a response counts for less than the policy would write.
    expected = [[math.exp(-0.5), math.exp(-1.0), 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    assert_close(batch["weights"], torch.tensor(expected))


def test_great_weights_are_cut():
    rows = [{"input_ids": [5, 6], "prompt_length": 1, "reward": 1.0, "log_ratios": [3.0]}]
    assert_close(ValueCollator(0, max_weight=4.0)(rows)["weights"], torch.tensor([[4.0, 1.0]]))
