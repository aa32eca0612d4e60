"""Means over prompts with their errors, and differences between methods that share prompts and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from rgtg_hf.evaluation.statistics import bootstrap_interval, mean_with_error


def estimate(values: Sequence[float]) -> list[float]:
    """The mean over prompts and its standard error."""
    return list(mean_with_error([float(value) for value in values]))


def mean_curve(curves: Iterable[Sequence[float]]) -> list[float]:
    """The mean over seeds of each prompt's value."""
    return [fmean(values) for values in zip(*curves, strict=True)]


def difference(ours: dict[int, list[float]], theirs: dict[int, list[float]], name: str) -> dict[str, Any]:
    """The difference over the seeds that both have, with its 95 % interval and the difference of each seed.

    Args:
        ours: One value per prompt, by seed.
        theirs: The same of the other method.
        name: The name of the difference in the result.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return {}
    one, other = (mean_curve([curves[seed] for seed in seeds]) for curves in (ours, theirs))
    differences = [a - b for a, b in zip(one, other, strict=True)]
    return {
        name: estimate(differences),
        f"{name}: 95 %": list(bootstrap_interval(differences)),
        f"{name}: by seed": [fmean(ours[seed]) - fmean(theirs[seed]) for seed in seeds],
    }
