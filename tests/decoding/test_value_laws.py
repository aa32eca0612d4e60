"""Law 11: steering by soft values leads to the optimum of RLHF, at any beta after one training."""

import itertools

import pytest
import torch

from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.rewards.value_model import bins_of
from rgtg_hf.training.value_loss import return_targets, value_losses
from tests.tiny_models import tiny_policy, tiny_reward_model

VOCABULARY, LENGTH, LEVELS, STEPS = 4, 3, 5, 3000
SMALL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}
PROMPT = [1, 2]


@pytest.fixture(scope="module")
def world():
    """A policy; a value model, trained to the end; all responses, their log-likelihoods and rewards."""
    policy = tiny_policy(**SMALL, initializer_range=0.3)
    values = tiny_reward_model(**SMALL, initializer_range=0.1, num_labels=LEVELS, value_range=[-2.0, 2.0])
    responses = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))
    whole = torch.cat([torch.tensor([PROMPT]).expand(len(responses), -1), responses], 1)
    with torch.no_grad():
        logits = policy(whole).logits[:, len(PROMPT) - 1 : -1].log_softmax(-1)
    likelihoods = logits.gather(2, responses[..., None])[..., 0].sum(-1)
    bins = bins_of(values.config)
    rewards = bins[torch.randint(LEVELS, (len(responses),), generator=torch.Generator().manual_seed(0))]

    # What a sample of the policy's responses tends to: each of them, as often as the policy writes it.
    targets, weights = return_targets(rewards, bins, "two_hot"), likelihoods.exp()
    scores = []
    hook = values.score.register_forward_hook(lambda module, inputs, output: scores.append(output))
    optimizer = torch.optim.AdamW(values.parameters(), lr=1e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        scores.clear()
        values(whole)
        losses = value_losses(scores[0][:, len(PROMPT) - 1 :], targets)
        loss = (weights[:, None] * losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    hook.remove()
    return policy, values, whole, likelihoods.double(), rewards.double()


def divergence_from_the_optimum(world, beta, value_beta):
    """KL(guided || optimum), in nats, by enumeration of all responses."""
    policy, values, whole, likelihoods, rewards = world
    guided = torch.zeros(len(whole), dtype=torch.float64)
    for length in range(len(PROMPT), len(PROMPT) + LENGTH):
        prefixes, rows = whole[:, :length].unique(dim=0, return_inverse=True)
        processor = RewardGuidedLogitsProcessor(values, beta=beta, value_beta=value_beta, top_k=0)
        with torch.no_grad():
            steered = processor(prefixes, policy(prefixes).logits[:, -1])
        guided += steered.double().log_softmax(-1)[rows].gather(1, whole[:, length, None])[:, 0]
    optimum = (likelihoods + beta * rewards).log_softmax(-1)
    return float((guided.exp() * (guided - optimum)).sum())


@pytest.mark.parametrize("beta", [1.0, 4.0, 16.0])
def test_a_value_model_leads_to_the_optimum_at_any_beta(world, beta):
    assert 0 <= divergence_from_the_optimum(world, beta, value_beta="beta") < 0.01


def test_the_mean_of_the_same_distribution_does_not(world):
    assert divergence_from_the_optimum(world, 4.0, value_beta=0.0) > 0.1
