import math

import pytest
import torch

from rgtg_hf.decoding.search_divergence import best_of_n_divergence_bound
from rgtg_hf.decoding.steering import steering
from rgtg_hf.evaluation.best_of import best_of_n, search_responses
from rgtg_hf.rewards.sequence_rewards import sequence_rewards
from tests.tiny_models import EOS, PAD, left_padded, tiny_steering_head


class Words:
    pad_token_id = PAD

    def batch_decode(self, ids, skip_special_tokens):
        return [" ".join(str(int(token)) for token in row if token > EOS) for row in ids]


PROMPTS = [[1, 5, 6], [1, 7], [1, 8, 9, 10]]


def test_the_best_of_each_prompt_is_picked():
    assert best_of_n([1.0, 3.0, 2.0, 5.0, 4.0, 4.0], 3) == [1, 3]
    assert best_of_n([2.0, 2.0], 2) == [0]
    with pytest.raises(ValueError, match="groups of 2"):
        best_of_n([1.0, 2.0, 3.0], 2)


def run(policy, reward_model, **settings):
    ids, mask = left_padded(PROMPTS)
    settings = {"search": "best", "n": 3, "block_size": 2, "top_k": 5, "max_new_tokens": 5, "seed": 0} | settings
    return search_responses(policy, Words(), {"input_ids": ids, "attention_mask": mask}, reward_model, **settings)


def total(reward_model, sampled):
    return sum(sequence_rewards(reward_model, [one + own for one, own in zip(PROMPTS, sampled.ids, strict=True)]))


def test_blocks_raise_the_reward_and_count_their_choices(policy, reward_model):
    one, many = run(policy, reward_model, n=1), run(policy, reward_model, n=16)
    assert one.divergences == [0.0] * 3
    assert total(reward_model, many) > total(reward_model, one)
    for ids, divergence in zip(many.ids, many.divergences, strict=True):
        assert len(ids) == 5 or ids[-1] == EOS
        assert divergence == best_of_n_divergence_bound(16, math.ceil(len(ids) / 2))
    assert many.tokens == sum(map(len, many.ids))
    assert many.reward_model_tokens > many.tokens


@pytest.mark.parametrize("at_once", [2**27, 1], ids=["in one pass", "row by row"])
@pytest.mark.parametrize("search", ["best", "halve", "none", "resample"])
def test_log_likelihoods_are_the_policys(policy, reward_model, search, at_once, monkeypatch):
    monkeypatch.setattr("rgtg_hf.evaluation.best_of._LOGITS_AT_ONCE", at_once)
    sampled = run(policy, reward_model, search=search)
    for prompt, ids, log_likelihood in zip(PROMPTS, sampled.ids, sampled.log_likelihoods, strict=True):
        with torch.no_grad():
            logits = policy(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        expected = logits.double().log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum().item()
        assert log_likelihood == pytest.approx(expected, abs=1e-3)


def test_a_guide_moves_the_rows(policy, reward_model):
    with steering(policy, [(tiny_steering_head(policy), 3.0)], top_k=5) as guide:
        guided = run(policy, reward_model, guide=guide)
    assert guided.ids != run(policy, reward_model).ids
