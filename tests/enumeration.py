"""A policy and a reward model whose responses can all be enumerated."""

import itertools

import torch

from rgtg_hf.rewards.sequence_rewards import prefix_rewards
from tests.tiny_models import tiny_policy, tiny_reward_model

SMALL = {"vocab_size": 6, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None, "initializer_range": 0.3}


def small_models():
    """The policy, and a reward model whose rewards are small enough for few particles."""
    policy, reward_model = tiny_policy(**SMALL), tiny_reward_model(**SMALL)
    reward_model.score.weight.data *= 0.2
    return policy, reward_model


def enumerated(policy, reward_model, prompt, length):
    """All responses of a length, log pi(y), and r(x, y) - r(x)."""
    vocabulary = policy.config.vocab_size
    responses = torch.tensor(list(itertools.product(range(vocabulary), repeat=length)))
    whole = torch.cat([torch.tensor([prompt]).expand(len(responses), -1), responses], dim=1)
    with torch.no_grad():
        logits = policy(whole).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
        rewards = prefix_rewards(reward_model, whole)
    likelihoods = logits.gather(2, responses[..., None])[..., 0].sum(-1)
    return responses, likelihoods.double(), (rewards[:, -1] - rewards[:, len(prompt) - 1]).double()
