"""The paper's two statements, by enumeration on a tiny vocabulary (arXiv:2406.07780)."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.config import resolve_guidance
from rgtg_hf.decoding.step import guide_step
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.training.loss import prefix_bradley_terry_loss
from tests.tiny_models import tiny_policy, tiny_reward_model

VOCABULARY, PROMPT, BETA = 5, [3, 4, 1], 0.8


def sequences(length):
    """All responses of a length, after the prompt, shape [VOCABULARY ** length, prompt + length]."""
    responses = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=length)))
    return torch.cat([torch.tensor([PROMPT]).expand(len(responses), -1), responses], dim=1)


@torch.no_grad()
def rlhf_policy(policy, reward_model, length):
    """The optimum of RLHF over responses of one length, pi_LM(y|x) exp(beta r(x, y)) / Z, one dimension a token."""
    every = sequences(length)
    log_probabilities = policy(every).logits[:, len(PROMPT) - 1 : -1].double().log_softmax(-1)
    log_likelihood = log_probabilities.gather(2, every[:, len(PROMPT) :, None])[..., 0].sum(-1)
    rewards = prefix_rewards(reward_model, every)[:, -1].double()
    return torch.softmax(log_likelihood + BETA * rewards, dim=0).view([VOCABULARY] * length)


@pytest.mark.parametrize("length", [2, 3])
def test_the_tokenwise_policy_is_a_ratio_of_two_sequence_level_rlhf_policies(length):
    policy, reward_model = tiny_policy(vocab_size=VOCABULARY), tiny_reward_model(vocab_size=VOCABULARY)
    longer, shorter = rlhf_policy(policy, reward_model, length), rlhf_policy(policy, reward_model, length - 1)
    ratio = longer / shorter[..., None]
    expected = ratio / ratio.sum(-1, keepdim=True)

    processor = RewardGuidedLogitsProcessor(reward_model, beta=BETA, top_k=0, attention_mask=torch.ones(1, 3))
    prefixes = sequences(length - 1)
    with torch.no_grad():
        guided = processor(prefixes, policy(prefixes).logits[:, -1])
    assert_close(guided.double().softmax(-1), expected.reshape(-1, VOCABULARY), atol=1e-5, rtol=1e-4)


def test_a_whole_response_reward_model_without_loss_is_arbitrary_on_prefixes():
    # A reward model as a table: whole responses of three tokens, and their prefixes of one token. Better responses
    # begin with a higher token. The loss of whole responses asks nothing of prefixes, so both tables have none.
    whole = torch.arange(VOCABULARY).mul(100.0)[:, None, None].expand(-1, VOCABULARY, VOCABULARY)
    faithful = torch.arange(VOCABULARY).float()
    tables = {"faithful": faithful, "perverse": -faithful}

    better, worse = torch.combinations(torch.arange(VOCABULARY)).flip(1).T  # first tokens of all pairs
    losses, chosen_tokens = {}, {}
    for name, prefix in tables.items():
        rewards = torch.stack([prefix, whole[:, 0, 0]], dim=1)  # [first token, prefix of one or all three]
        for kind, weights in (("whole", [0.0, 1.0]), ("prefixes", [1.0, 1.0])):
            weights = torch.tensor(weights).expand(len(better), -1)
            losses[name, kind] = prefix_bradley_terry_loss(rewards[better], rewards[worse], weights)
        config = resolve_guidance({"beta": 5.0, "top_k": 0}).config
        plain = torch.zeros(1, VOCABULARY)
        guided = guide_step(plain, config, lambda ids, wanted, table=prefix: table[None].gather(1, ids)).scores
        chosen_tokens[name] = int(guided.argmax())

    assert losses["faithful", "whole"] == losses["perverse", "whole"] < 1e-30
    assert chosen_tokens == {"faithful": VOCABULARY - 1, "perverse": 0}  # the best and the worst response begins
    assert losses["faithful", "prefixes"] < losses["perverse", "prefixes"]  # the prefix loss tells them apart
