"""Rewards of whole sequences, in padded batches and without a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rgtg_hf.rewards.model_state import input_device
from rgtg_hf.rewards.prefix_rewards import prefix_rewards

__all__ = ["sequence_rewards"]


@torch.no_grad()
def sequence_rewards(reward_model: Any, sequences: Sequence[Sequence[int]], batch_size: int = 128) -> list[float]:
    """The reward of each sequence as a whole, r(x, y): that of its last token.

    Args:
        reward_model: A causal sequence classifier with one label, or a `NextTokenRewardModel`.
        sequences: Token ids of prompt and response, without padding, at least one each.
        batch_size: Sequences per forward pass.

    Returns:
        One reward per sequence.

    Example:
        ```python
        from transformers import LlamaConfig, LlamaForSequenceClassification
        from rgtg_hf.rewards.sequence_rewards import sequence_rewards

        config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2, num_labels=1, pad_token_id=0)
        reward_model = LlamaForSequenceClassification(config)
        assert len(sequence_rewards(reward_model, [[5, 6, 7], [8, 9]])) == 2
        ```
    """
    device = input_device(reward_model)
    if reward_model.config.get_text_config().pad_token_id is None:
        batch_size = 1  # which a sequence classifier without a pad token insists on
    # Sequences of like length together: little padding. It is on the right, where a causal model does not see it.
    order = sorted(range(len(sequences)), key=lambda place: len(sequences[place]))
    rewards = [0.0] * len(sequences)
    for start in range(0, len(sequences), batch_size):
        places = order[start : start + batch_size]
        rows, width = [list(sequences[place]) for place in places], len(sequences[places[-1]])
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        last = prefix_rewards(reward_model, ids, mask, use_cache=False).gather(1, lengths[:, None] - 1)
        for place, reward in zip(places, last[:, 0].float().tolist(), strict=True):
            rewards[place] = reward
    return rewards
