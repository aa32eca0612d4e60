"""The bounds are above the divergence that is counted or known."""

import math

import pytest
import torch

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from rgtg_hf.decoding.search_divergence import best_of_n_divergence_bound, search_divergence
from rgtg_hf.decoding.search_output import SearchOutput
from rgtg_hf.evaluation.best_of import search_responses
from tests.enumeration import SMALL, enumerated, small_models
from tests.evaluation.test_best_of import Words


def test_the_bound_is_the_divergence_of_the_best_of_many_equally_likely_responses():
    # With distinct rewards and a fine-grained policy the bound is met: sum over ranks of p log (p / policy).
    size, n = 2000, 4
    chances = [((rank + 1) / size) ** n - (rank / size) ** n for rank in range(size)]
    exact = sum(chance * math.log(chance * size) for chance in chances if chance)
    assert best_of_n_divergence_bound(n) == pytest.approx(exact, abs=1e-2)
    assert best_of_n_divergence_bound(n, choices=3) == 3 * best_of_n_divergence_bound(n)


def test_a_choice_that_is_not_of_the_best_has_the_wider_bound():
    for settings, choices in (({"search": "best"}, 3), ({"search": "none"}, 1)):
        config = RewardGuidanceConfig(num_rows=4, block_size=2, **settings)
        assert search_divergence(config, SearchOutput(), [5]) == [best_of_n_divergence_bound(4, choices)]
        drawn = RewardGuidanceConfig(num_rows=4, block_size=2, search_return="draw", **settings)
        assert search_divergence(drawn, SearchOutput(), [5]) == [choices * math.log(4)]


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
    few = particles(small, 3, 300, 4.0, guide=guide)
    found, bias = drawn_divergence(small, few.ids)
    assert found - bias < sum(few.divergences) / 300
    _, likelihoods, rewards = enumerated(*small, [3, 4], 3)
    optimum = (likelihoods + rewards).log_softmax(0)
    exact = float((optimum.exp() * (optimum - likelihoods)).sum())
    many = torch.tensor(particles(small, 48, 60, 1.0, guide=guide).divergences)
    assert abs(float(many.mean()) - exact) < 3 * float(many.std()) / 60**0.5


def test_particles_without_a_beta_are_the_policys_own(small):
    assert particles(small, 4, 3, beta=0.0).divergences == [0.0] * 3
