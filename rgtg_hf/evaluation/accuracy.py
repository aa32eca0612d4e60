"""How often a reward model ranks held-out pairs right, by how much of the responses it has read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.training.curve import CURVE_FRACTIONS, summarize

__all__ = ["accuracy_by_fraction"]


@torch.no_grad()
def accuracy_by_fraction(
    reward_model: Any,
    pairs: Sequence[tuple[Sequence[int], Sequence[int], Sequence[int]]],
    *,
    max_gap: float = math.inf,
) -> dict[str, Any]:
    """Accuracy at each tenth of the responses; each is read up to that fraction of its own length.

    Args:
        reward_model: A causal sequence classifier with one label.
        pairs: Token ids of prompt, preferred response and rejected response.
        max_gap: Only pairs whose responses differ in length by at most this share of the longer one. A small number
            controls for length: longer responses are preferred so often that a model may learn nothing else.

    Returns:
        `fraction_read`, `accuracy` and `standard_error`, lists of one length, and `pairs`, their number.

    Raises:
        ValueError: If no pair is left.
    """
    kept = [pair for pair in pairs if abs(len(pair[1]) - len(pair[2])) <= max_gap * max(len(pair[1]), len(pair[2]))]
    if not kept:
        raise ValueError(f"No pair of {len(pairs)} is left whose lengths differ by at most {max_gap:.0%}.")
    wins: dict[float, list[float]] = {fraction: [] for fraction in CURVE_FRACTIONS}
    for prompt, *responses in kept:
        rewards = [_rewards(reward_model, prompt, response) for response in responses]
        for fraction in CURVE_FRACTIONS:
            chosen, rejected = (of[max(1, math.ceil(fraction * len(of))) - 1] for of in rewards)
            wins[fraction].append(0.5 + 0.5 * ((chosen > rejected) - (chosen < rejected)))
    return summarize(wins)


def _rewards(reward_model: Any, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
    ids = torch.tensor([[*prompt, *response]], device=next(reward_model.parameters()).device)
    return prefix_rewards(reward_model, ids, use_cache=False)[0, len(prompt) :].float().tolist()
