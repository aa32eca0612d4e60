"""Selections between the blocks of a search: which rows of a prompt go on, in plain numbers.

A selection takes the rewards of a prompt's rows, or the logarithms of their weights, and returns places of rows in the
order in which they go on. A place may occur several times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rgtg_hf.config import RewardGuidanceConfig

__all__ = ["draws_rows", "effective_size", "log_mean_exp", "normalized", "power_for", "ranked", "resampled"]

_ROUNDING = 1e-12
_HALVINGS = 40


def draws_rows(config: RewardGuidanceConfig) -> bool:
    """Whether the rows that a search returns are drawn by their weights, and not the best ones."""
    wish = config.search_return
    return wish == "draw" or (wish != "best" and config.search == "resample")


def ranked(rewards: Sequence[float], count: int) -> list[int]:
    """The places of the highest rewards, the highest first; of equals the first.

    Example:
        ```python
        from rgtg_hf.decoding.selection import ranked

        assert ranked([0.1, 0.9, 0.5], count=2) == [1, 2]
        ```
    """
    return sorted(range(len(rewards)), key=lambda place: -rewards[place])[:count]


def resampled(log_weights: Sequence[float], count: int, uniform: float) -> list[int]:
    """Draws places with probabilities in proportion to weights, by systematic resampling.

    Each place is drawn as often as expected, rounded up or down (Kitagawa, 1996), and equal weights leave all rows
    as they are.

    Args:
        log_weights: Logarithms of the weights.
        count: How many to draw.
        uniform: A random number from [0, 1).

    Returns:
        Places in ascending order.

    Example:
        ```python
        from rgtg_hf.decoding.selection import resampled

        assert resampled([0.0, 0.0, 0.0], count=3, uniform=0.5) == [0, 1, 2]
        assert resampled([0.0, 9.0, 0.0], count=3, uniform=0.5) == [1, 1, 1]
        ```
    """
    weights = normalized(log_weights)
    places, place, total = [], 0, weights[0]
    for number in range(count):
        # The last place takes what rounding leaves over.
        while total <= (number + uniform) / count + _ROUNDING and place < len(weights) - 1:
            place += 1
            total += weights[place]
        places.append(place)
    return places


def effective_size(log_weights: Sequence[float]) -> float:
    """The effective sample size, 1 / sum of squared weights: from 1 (one row has all weight) to the number of rows."""
    return 1.0 / sum(weight**2 for weight in normalized(log_weights))


def power_for(log_weights: Sequence[float], size: float) -> float:
    """The highest power, at most 1, of the weights with which the effective sample size is at least `size`.

    Example:
        ```python
        from rgtg_hf.decoding.selection import power_for

        assert power_for([0.0, 0.1], size=1.5) == 1.0
        assert 0.0 < power_for([0.0, 9.0], size=1.5) < 0.5
        ```
    """
    low, high = 0.0, 1.0
    if effective_size(log_weights) >= size:
        return high
    for _ in range(_HALVINGS):  # a higher power leaves fewer rows that count
        middle = (low + high) / 2
        enough = effective_size([middle * one for one in log_weights]) >= size
        low, high = (middle, high) if enough else (low, middle)
    return low


def normalized(log_weights: Sequence[float]) -> list[float]:
    """Weights that add up to 1."""
    highest = max(log_weights)
    weights = [math.exp(one - highest) for one in log_weights]
    total = sum(weights)
    return [weight / total for weight in weights]


def log_mean_exp(log_weights: Sequence[float]) -> float:
    """The logarithm of the mean weight."""
    highest = max(log_weights)
    return highest + math.log(sum(math.exp(one - highest) for one in log_weights) / len(log_weights))
