"""Means with their standard errors, differences, win rates and bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

__all__ = ["Estimate", "bootstrap_interval", "mean_with_error", "paired_difference", "win_rate"]


class Estimate(NamedTuple):
    """A mean and its standard error (the standard deviation of the mean, not of the values)."""

    mean: float
    error: float


def mean_with_error(values: Sequence[float]) -> Estimate:
    """The mean of independent values and its standard error, s / sqrt(n) with s from n - 1 degrees of freedom.

    Args:
        values: One value per independent unit, for example per prompt.

    Returns:
        The estimate. The error of a single value is NaN.

    Raises:
        ValueError: If there are no values.

    Example:
        ```python
        from rgtg_hf.evaluation.statistics import mean_with_error

        mean, error = mean_with_error([1.0, 3.0])
        assert (mean, error) == (2.0, 1.0)
        ```
    """
    count = len(values)
    if count == 0:
        raise ValueError("No values were given: a mean needs at least one.")
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, math.nan)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Estimate(mean, math.sqrt(variance / count))


def paired_difference(treated: Sequence[float], control: Sequence[float]) -> Estimate:
    """The mean of `treated - control` over the same units, with the standard error of that difference.

    Prompts differ far more from each other than methods do on one prompt. Pairing removes the variance of the prompts.

    Args:
        treated: One value per prompt under the method of interest.
        control: The values of the same prompts in the same order under the other method.

    Returns:
        The estimate of the difference.

    Raises:
        ValueError: If the lengths differ or there are no values.

    Example:
        ```python
        from rgtg_hf.evaluation.statistics import paired_difference

        assert paired_difference([1.0, 5.0], [0.0, 4.0]) == (1.0, 0.0)
        ```
    """
    if len(treated) != len(control):
        raise ValueError(
            f"Paired values must be of the same prompts, but {len(treated)} and {len(control)} values were given."
        )
    return mean_with_error([a - b for a, b in zip(treated, control, strict=True)])


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean (Efron, 1979), which resamples the units.

    For a paired interval, pass the differences between two methods on the same prompts.

    Args:
        values: One value per independent unit, for example per prompt.
        level: Probability that such an interval covers the true mean.
        resamples: Number of resamples.
        seed: Seed of resampling, which makes a report reproducible.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: If there are no values.

    Example:
        ```python
        from rgtg_hf.evaluation.statistics import bootstrap_interval

        low, high = bootstrap_interval([0.9, 1.0, 1.1] * 10)
        assert 0.9 < low < 1.0 < high < 1.1
        ```
    """
    if not values:
        raise ValueError("No values were given: a mean needs at least one.")
    data = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    # In parts, because ten thousand resamples of a thousand prompts at once would need much memory.
    means = [
        data[torch.randint(len(data), (500, len(data)), generator=generator)].mean(1)
        for _ in range(math.ceil(resamples / 500))
    ]
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(means)[:resamples].quantile(tails).tolist()
    return low, high


def win_rate(treated: Sequence[float], control: Sequence[float]) -> Estimate:
    """The share of units on which `treated` is above `control`. A tie counts half.

    Args:
        treated: One value per prompt under the method of interest.
        control: The values of the same prompts in the same order under the other method.

    Returns:
        The share with its standard error.

    Raises:
        ValueError: If the lengths differ or there are no values.

    Example:
        ```python
        from rgtg_hf.evaluation.statistics import win_rate

        assert win_rate([1.0, 2.0], [0.0, 2.0]).mean == 0.75
        ```
    """
    if len(treated) != len(control):
        raise ValueError(
            f"Paired values must be of the same prompts, but {len(treated)} and {len(control)} values were given."
        )
    return mean_with_error([0.5 + 0.5 * ((a > b) - (a < b)) for a, b in zip(treated, control, strict=True)])
