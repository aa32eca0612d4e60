import math

import pytest
import torch

from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
from rgtg_hf.decoding.steering import steering
from rgtg_hf.evaluation.best_of import best_of_n, best_of_n_divergence_bound, search_responses
from rgtg_hf.rewards.sequence_rewards import sequence_rewards
from tests.enumeration import SMALL, enumerated, small_models
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


def test_the_bound_is_the_divergence_of_the_best_of_many_equally_likely_responses():
    # With distinct rewards and a fine-grained policy the bound is met: sum over ranks of p log (p / policy).
    size, n = 2000, 4
    chances = [((rank + 1) / size) ** n - (rank / size) ** n for rank in range(size)]
    exact = sum(chance * math.log(chance * size) for chance in chances if chance)
    assert best_of_n_divergence_bound(n) == pytest.approx(exact, abs=1e-2)
    assert best_of_n_divergence_bound(n, choices=3) == 3 * best_of_n_divergence_bound(n)


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


@pytest.mark.parametrize("search", ["best", "halve", "none", "resample"])
def test_log_likelihoods_are_the_policys(policy, reward_model, search):
    sampled = run(policy, reward_model, search=search)
    for prompt, ids, log_likelihood in zip(PROMPTS, sampled.ids, sampled.log_likelihoods, strict=True):
        with torch.no_grad():
            logits = policy(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        expected = logits.double().log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum().item()
        assert log_likelihood == pytest.approx(expected, abs=1e-3)


@pytest.fixture(scope="module")
def small():
    return small_models()


def particles(small, n, copies, beta=1.0, **settings):
    inputs = {"input_ids": torch.tensor([[3, 4]] * copies), "attention_mask": torch.ones(copies, 2, dtype=torch.long)}
    settings = {"n": n, "beta": beta, "block_size": 1, "top_k": SMALL["vocab_size"], "seed": 0} | settings
    policy, reward_model = small
    return search_responses(policy, Words(), inputs, reward_model, search="resample", max_new_tokens=3, **settings)


def drawn_divergence(small, ids):
    """The divergence of drawn responses from the policy, by counting, and the bias of the count."""
    responses, likelihoods, _ = enumerated(*small, [3, 4], 3)
    codes = {tuple(row): place for place, row in enumerate(responses.tolist())}
    chances = torch.bincount(torch.tensor([codes[tuple(row)] for row in ids]), minlength=len(codes)) / len(ids)
    divergence = (torch.xlogy(chances, chances) - chances * likelihoods).sum()
    return float(divergence), int((chances > 0).sum()) / 2 / len(ids)


@pytest.mark.parametrize("guided", [False, True])
def test_the_bound_of_particles_is_above_their_divergence_and_tends_to_that_of_the_optimum(small, guided):
    guide = RewardGuidedLogitsProcessor(small[1], beta=1.0, top_k=SMALL["vocab_size"]) if guided else None
    few = particles(small, 3, 1500, 4.0, guide=guide)
    found, bias = drawn_divergence(small, few.ids)
    assert found - bias < sum(few.divergences) / 1500
    _, likelihoods, rewards = enumerated(*small, [3, 4], 3)
    optimum = (likelihoods + rewards).log_softmax(0)
    exact = float((optimum.exp() * (optimum - likelihoods)).sum())
    many = torch.tensor(particles(small, 128, 150, 1.0, guide=guide).divergences)
    assert abs(float(many.mean()) - exact) < 3 * float(many.std()) / 150**0.5


def test_particles_without_a_beta_are_the_policys_own(small):
    assert particles(small, 4, 3, beta=0.0).divergences == [0.0] * 3


def test_a_guide_moves_the_rows(policy, reward_model):
    with steering(policy, [(tiny_steering_head(policy), 3.0)], top_k=5) as guide:
        guided = run(policy, reward_model, guide=guide)
    assert guided.ids != run(policy, reward_model).ids
