"""The share of held-out pairs that a reward model ranks right, by the fraction of the responses it has read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rgtg_hf.rewards.model_state import input_device
from rgtg_hf.rewards.pair_accuracy import CURVE_FRACTIONS, accuracy_curve, rewards_at_fraction, share_won
from rgtg_hf.rewards.pairs import TOKENIZED
from rgtg_hf.rewards.prefix_rewards import prefix_rewards

__all__ = ["accuracy_by_fraction"]


@torch.no_grad()
def accuracy_by_fraction(
    reward_model: Any, pairs: Sequence[dict[str, Any]], *, max_gap: float = math.inf
) -> dict[str, Any]:
    """Accuracy at each tenth of the responses, each read up to that fraction of its own length.

    Args:
        reward_model: A causal sequence classifier with one label.
        pairs: Token ids as [`pair_ids`][rgtg_hf.rewards.pairs.pair_ids] gives them.
        max_gap: Only pairs whose responses differ in length by at most this share of the longer one. A small number
            controls for length: longer responses are preferred so often that a model may learn nothing else.

    Returns:
        `fraction_read`, `accuracy` and `standard_error`, lists of one length, and `pairs`, their number. They are the
        figures that the trainer gives for these pairs.

    Raises:
        ValueError: If no pair is left.
    """
    kept = [pair for pair in pairs if _gap(pair) <= max_gap]
    if not kept:
        raise ValueError(f"No pair of {len(pairs)} has lengths that differ by at most {max_gap:.0%}: raise max_gap.")
    wins: dict[float, list[float]] = {fraction: [] for fraction in CURVE_FRACTIONS}
    for pair in kept:
        rewards, lengths = _response_rewards(reward_model, pair)
        for fraction in CURVE_FRACTIONS:
            chosen, rejected = rewards_at_fraction(rewards, lengths, fraction)
            wins[fraction].append(share_won(chosen - rejected).item())
    return accuracy_curve(wins)


def _gap(pair: dict[str, Any]) -> float:
    shorter, longer = sorted(len(pair[column]) - pair["prompt_length"] for column in TOKENIZED)
    return (longer - shorter) / longer


def _response_rewards(reward_model: Any, pair: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Rewards of all prefixes of both responses, shape `[2, longest]`, float32, and their lengths, shape `[2]`.

    Both are read in one batch, so that a prefix that they share has exactly the same reward in both: a tie.
    """
    sides = [torch.tensor(pair[column]) for column in TOKENIZED]
    input_ids = pad_sequence(sides, batch_first=True).to(input_device(reward_model))
    mask = pad_sequence([torch.ones_like(side) for side in sides], batch_first=True).to(input_ids.device)
    rewards = prefix_rewards(reward_model, input_ids, mask, use_cache=False)[:, pair["prompt_length"] :]
    return rewards.float().cpu(), torch.tensor([len(side) - pair["prompt_length"] for side in sides])
