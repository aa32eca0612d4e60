"""Means with their standard errors. Every figure this project reports carries one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Estimate", "mean_with_error", "paired_difference"]


class Estimate(NamedTuple):
    """A mean and its standard error (the standard deviation of the mean, not of the values)."""

    mean: float
    error: float


def mean_with_error(values: Sequence[float]) -> Estimate:
    """The mean of independent values and its standard error, s / sqrt(n) with s from n - 1 degrees of freedom.

    Args:
        values: One value per independent unit, for example per prompt.

    Returns:
        The estimate. The error of a single value is unknown and given as NaN.

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

    Prompts differ far more from each other than methods do on one prompt. Pairing takes the prompts' part out.

    Args:
        treated: One value per prompt under the method of interest.
        control: The values of the same prompts, in the same order, under the method compared with.

    Returns:
        The estimate of the difference.

    Raises:
        ValueError: If the lengths differ or nothing was given.

    Example:
        ```python
        from rgtg_hf.evaluation.statistics import paired_difference

        assert paired_difference([1.0, 5.0], [0.0, 4.0]) == (1.0, 0.0)
        ```
    """
    if len(treated) != len(control):
        raise ValueError(
            f"Paired values belong to the same prompts, but {len(treated)} and {len(control)} were given."
        )
    return mean_with_error([a - b for a, b in zip(treated, control, strict=True)])
