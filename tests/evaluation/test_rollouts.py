"""Rollouts are what the policy writes, token for token, with the reward of each."""

import pytest
import torch
from datasets import Dataset
from transformers import TopKLogitsWarper, set_seed

from rgtg_hf.evaluation.prompts import encode_batch
from rgtg_hf.evaluation.rollouts import pairs_of_rollouts, rollouts
from rgtg_hf.rewards.preference_rows import check_rows
from tests.cli.conftest import byte_tokenizer
from tests.tiny_models import tiny_policy

PROMPTS = ["Why?", [{"role": "user", "content": "Tell me more."}]]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def policy(tokenizer):
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    return tiny_policy(vocab_size=len(tokenizer), **ids)


def length(prompts, responses):
    return [len(prompt) + len(response) / 100 for prompt, response in zip(prompts, responses, strict=True)]


def test_they_are_the_tokens_of_generate_with_what_was_read_and_written(policy, tokenizer):
    rows = rollouts(policy, tokenizer, PROMPTS, length, num_responses=3, top_k=5, max_new_tokens=6, seed=4)
    set_seed(4)
    inputs = encode_batch(tokenizer, PROMPTS)
    output = policy.generate(
        **inputs, do_sample=True, top_k=5, max_new_tokens=6, num_return_sequences=3
    )  # fmt: skip
    for row, ids, place in zip(rows, output, [0, 0, 0, 1, 1, 1], strict=True):
        written = ids[inputs["input_ids"].shape[1] :].tolist()
        assert row["completion_ids"] == written[: len(row["completion_ids"])]
        assert set(written[len(row["completion_ids"]) :]) <= {tokenizer.pad_token_id}
        assert row["finished"] == (tokenizer.eos_token_id in written)
        assert row["prompt_ids"] == inputs["input_ids"][place][inputs["attention_mask"][place].bool()].tolist()
        assert row["prompt"][-1]["content"] == ["Why?", "Tell me more."][place]
        text = tokenizer.decode(row["completion_ids"], skip_special_tokens=True)
        assert row["completion"] == [{"role": "assistant", "content": text}]
        assert row["reward"] == pytest.approx([4, 13][place] + len(text) / 100)


def test_without_a_chat_template_they_are_texts(policy, tokenizer):
    (row,) = rollouts(policy, tokenizer, ["Why?"], length, num_responses=1, max_new_tokens=3, chat_template=False)
    assert row["prompt"] == "Why?"
    assert row["completion"] == tokenizer.decode(row["completion_ids"], skip_special_tokens=True)


def test_a_processor_guides_them(policy, tokenizer):
    class Only(TopKLogitsWarper):
        def __call__(self, input_ids, scores):
            return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([70]), 0.0)

    (row,) = rollouts(policy, tokenizer, ["Why?"], length, num_responses=1, max_new_tokens=3, processor=Only(1))
    assert row["completion_ids"] == [70, 70, 70]


@pytest.mark.parametrize("name", ["num_responses", "top_k", "max_new_tokens"])
def test_numbers_below_one_are_refused(policy, tokenizer, name):
    with pytest.raises(ValueError, match=name):
        rollouts(policy, tokenizer, ["Why?"], length, **{name: 0})


def rows_with(rewards, prompt=7):
    return [{"prompt_ids": [prompt], "completion_ids": [i], "reward": reward} for i, reward in enumerate(rewards)]


def test_pairs_prefer_the_higher_reward_and_use_every_response_of_a_prompt_twice():
    pairs = pairs_of_rollouts(rows_with([3.0, 1.0, 2.0, 0.0]) + rows_with([5.0, 4.0], prompt=8))
    check_rows(Dataset.from_list(pairs), "pairs")
    assert all(pair["chosen_ids"][0] == pair["rejected_ids"][0] for pair in pairs)
    reward = {0: 3.0, 1: 1.0, 2: 2.0, 3: 0.0}
    of_first = [(pair["chosen_ids"][1], pair["rejected_ids"][1]) for pair in pairs if pair["chosen_ids"][0] == 7]
    assert all(reward[better] > reward[worse] for better, worse in of_first)
    assert sorted(token for pair in of_first for token in pair) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [pair for pair in pairs if pair["chosen_ids"][0] == 8] == [
        {"chosen_ids": [8, 0], "rejected_ids": [8, 1], "prompt_length": 1}
    ]


def test_responses_that_are_as_good_make_no_pair():
    assert pairs_of_rollouts(rows_with([1.0, 1.0, 1.0])) == []
    assert pairs_of_rollouts(rows_with([1.0])) == []
