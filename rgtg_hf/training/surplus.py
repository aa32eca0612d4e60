"""How rewards differ among the responses to one prompt, which is what steering can change."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from datasets import Dataset

__all__ = ["reward_unit", "rollout_surpluses", "surpluses"]

_SMALLEST = -50.0  # the logarithm of the smallest weight, so that no mean is over nothing


def surpluses(prompts: Sequence[Any], rewards: Sequence[float], weights: Sequence[float]) -> list[float | None]:
    """Says how much more reward each response has than the others to the same prompt.

    Args:
        prompts: Of each response, in any form that can be a key.
        rewards: Of each response.
        weights: How much a response counts in the mean of the others.

    Returns:
        For each response its reward less the weighted mean of the others; `None` where there is no other one.

    Example:
        ```python
        from rgtg_hf.training.surplus import surpluses

        assert surpluses("aab", [1.0, 3.0, 7.0], [1.0, 1.0, 1.0]) == [-2.0, 2.0, None]
        ```
    """
    places: dict[Any, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        places[prompt].append(place)
    found: list[float | None] = [None] * len(rewards)
    for own in places.values():
        if len(own) > 1:
            weighted = _sums_of_others([weights[place] * rewards[place] for place in own])
            totals = _sums_of_others([weights[place] for place in own])
            for place, others, total in zip(own, weighted, totals, strict=True):
                mean = others / total
                found[place] = 0.0 if math.isclose(rewards[place], mean) else rewards[place] - mean
    return found


def _sums_of_others(values: list[float]) -> list[float]:
    """For each value the sum of the others; nothing is subtracted, as a large one would swallow the others."""
    before = list(accumulate(values, initial=0.0))
    after = list(accumulate(reversed(values), initial=0.0))[::-1]
    return [before[place] + after[place + 1] for place in range(len(values))]


def rollout_surpluses(rows: Dataset, max_weight: float) -> list[float | None]:
    """Says how much more reward each rated response has than the others to its prompt.

    Args:
        rows: Rows of [`located_rollouts`][rgtg_hf.training.value_rows.located_rollouts].
        max_weight: The largest importance weight of a response of a guided policy, in the mean of the others.

    Returns:
        See [`surpluses`].
    """
    prompts, rewards, weights = [], [], []
    for row in rows:
        prompts.append(tuple(row["input_ids"][: row["prompt_length"]]))
        rewards.append(row["reward"])
        weights.append(math.exp(min(max(sum(row["log_ratios"]), _SMALLEST), math.log(max_weight))))
    return surpluses(prompts, rewards, weights)


def reward_unit(found: Sequence[float | None]) -> float:
    """The standard deviation of rewards around those of other responses to the prompt, 0 where none has others.

    Args:
        found: What [`surpluses`] gave.

    Returns:
        The root of the mean square, in units of the reward.

    Example:
        ```python
        from rgtg_hf.training.surplus import reward_unit

        assert reward_unit([-2.0, 2.0, None]) == 2.0
        ```
    """
    squares = [surplus**2 for surplus in found if surplus is not None]
    return math.sqrt(sum(squares) / len(squares)) if squares else 0.0
