"""Rewards of whole sequences do not depend on the batch."""

import pytest
import torch

from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.rewards.sequence_rewards import sequence_rewards
from tests.tiny_models import tiny_next_token_model, tiny_reward_model

SEQUENCES = [[1, 5, 6, 5, 6, 2], [1, 7, 7], [1, 8, 9, 10, 9, 9, 9, 9, 9]]


@pytest.mark.parametrize(
    "model",
    [tiny_reward_model(), tiny_reward_model("jamba"), tiny_reward_model(pad_token_id=None), tiny_next_token_model()],
    ids=["llama", "jamba", "no pad token", "next token"],
)
def test_a_sequence_is_rewarded_as_a_whole_in_any_batch(model):
    rewards = sequence_rewards(model, SEQUENCES, batch_size=2)
    for sequence, reward in zip(SEQUENCES, rewards, strict=True):
        alone = prefix_rewards(model, torch.tensor([sequence]))[0, -1].item()
        assert reward == pytest.approx(alone, abs=1e-4)
