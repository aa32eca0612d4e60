"""The paper's two statements, by enumeration on a tiny vocabulary (arXiv:2406.07780)."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
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

    processor = RewardGuidedLogitsProcessor(reward_model, beta=BETA, top_k=None, attention_mask=torch.ones(1, 3))
    prefixes = sequences(length - 1)
    with torch.no_grad():
        guided = processor(prefixes, policy(prefixes).logits[:, -1])
    assert_close(guided.double().softmax(-1), expected.reshape(-1, VOCABULARY), atol=1e-5, rtol=1e-4)


def test_a_perfect_reward_model_of_whole_responses_may_be_arbitrary_on_prefixes():
    # Any reward of whole responses is a sum of increments whose partial sums are free: choose the prefixes' rewards as
    # you like, and let the last token bring the sum to what Bradley and Terry ask for.
    length = 3
    whole = torch.randn([VOCABULARY] * length, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 40
    pairs = torch.randint(VOCABULARY**length, (200, 2), generator=torch.Generator().manual_seed(1))
    first, second = whole.flatten()[pairs].T
    chosen, rejected = torch.where(first > second, first, second), torch.where(first > second, second, first)
    distinct = chosen - rejected > 20
    loss = -torch.nn.functional.logsigmoid(chosen - rejected)[distinct].mean()
    assert distinct.sum() > 50
    assert loss < 1e-8

    def tokenwise_choice(prefix_reward):
        """The token that steering by this reward picks after a first token, for a policy that likes all alike."""
        return prefix_reward.argmax(-1)

    best = whole.amax(-1)  # of all ends
    faithful, perverse = best, -best  # two reward models with the same, zero, loss
    assert torch.equal(whole, (whole - faithful[..., None]) + faithful[..., None])
    for prefix_reward in (faithful, perverse):
        increments = whole - prefix_reward[..., None]
        assert_close(prefix_reward[..., None] + increments, whole)
    reached = [
        best.gather(1, tokenwise_choice(reward)[:, None])[:, 0] for reward in (faithful, perverse)
    ]
    assert (reached[0] > reached[1]).all()
