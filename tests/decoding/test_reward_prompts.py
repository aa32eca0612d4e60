"""The reward model's own prompts stand before the response of the row they belong to."""

import pytest
import torch

from rgtg_hf.decoding.reward_prompts import RewardPrompts
from rgtg_hf.scoring.scorer import PrefixBatch


def test_rows_of_one_prompt_stand_together_and_keep_their_response():
    response = torch.tensor([[0, 1, 21], [0, 1, 22], [2, 3, 23], [2, 3, 24]])  # two beams each of two prompts
    own = RewardPrompts([[11, 12, 13], [14]])
    replaced = own.replace(PrefixBatch(response, torch.ones_like(response), 2))
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(replaced.input_ids, replaced.attention_mask, strict=True)]
    assert rows == [[11, 12, 13, 21], [11, 12, 13, 22], [14, 23], [14, 24]]
    assert replaced.prompt_length == 3


@pytest.mark.parametrize(
    "prompts",
    [
        [[11, 12], [13]],
        [torch.tensor([11, 12]), torch.tensor([13])],
        torch.tensor([[11, 12], [0, 13]]),
        {"input_ids": [[11, 12], [13, 99]], "attention_mask": [[1, 1], [1, 0]]},
    ],
    ids=["lists", "tensors", "padded tensor", "tokenizer output"],
)
def test_prompts_are_read_in_every_form(prompts):
    own = RewardPrompts(prompts, pad_token_id=0)
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(own.input_ids, own.attention_mask, strict=True)]
    assert rows == [[11, 12], [13]]


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ([], ValueError, "empty"),
        ([[11], []], ValueError, "empty prompt"),
        (["text"], ValueError, "pass `tokenizer=`"),
        ("text", TypeError, "is str, but a list of texts"),
        (7, TypeError, "is int"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(prompts, error, message):
    with pytest.raises(error, match=message):
        RewardPrompts(prompts)


def test_another_number_of_prompts_than_rows_is_refused():
    response = torch.ones(3, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="There are 2 `reward_prompts`, but generate\\(\\) runs 3 rows"):
        RewardPrompts([[11], [12]]).replace(PrefixBatch(response, response, 1))
