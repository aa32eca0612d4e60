"""Compares methods at equal divergence from the policy, because more divergence buys more reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rgtg_hf.evaluation.statistics import bootstrap_interval, mean_with_error, paired_difference

__all__ = ["FrontierPoint", "at_divergence", "compare_at_divergence"]


class FrontierPoint(NamedTuple):
    """The results of one strength of steering on all prompts.

    Attributes:
        divergence: Mean over the responses of KL(pi || pi_LM), in nats per response.
        gold: Gold reward per prompt.
    """

    divergence: float
    gold: Sequence[float]


def at_divergence(points: Sequence[FrontierPoint], target: float) -> list[float] | None:
    """Gold reward per prompt at a divergence, interpolated between the two nearest strengths.

    The interpolation is linear within each prompt, so the result can be paired with that of another method.

    Args:
        points: Strengths of one trained model in any order, including the unguided policy (divergence 0), all on the
            same prompts.
        target: Divergence in nats per response.

    Returns:
        One gold reward per prompt; `None` beyond the largest divergence, because nothing is extrapolated.

    Raises:
        ValueError: If there are no points, or none at or below the target.

    Example:
        ```python
        from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence

        points = [FrontierPoint(0.0, [0.0, 1.0]), FrontierPoint(2.0, [1.0, 1.0])]
        assert at_divergence(points, 1.0) == [0.5, 1.0]
        assert at_divergence(points, 3.0) is None
        ```
    """
    ordered = sorted(points, key=lambda point: point.divergence)
    if not ordered or ordered[0].divergence > target:
        raise ValueError(
            f"No point has a divergence of at most {target}: add the unguided policy, at divergence 0, to the points."
        )
    for before, after in pairwise(ordered):
        if after.divergence >= target:
            span = after.divergence - before.divergence
            share = (target - before.divergence) / span if span else 0.0
            return [(1 - share) * low + share * high for low, high in zip(before.gold, after.gold, strict=True)]
    return list(ordered[-1].gold) if ordered[-1].divergence == target else None


def compare_at_divergence(
    curves: Mapping[str, Sequence[FrontierPoint]], targets: Sequence[float]
) -> list[dict[str, Any]]:
    """Compares methods at equal divergence, and the first with each of the others, prompt by prompt.

    Args:
        curves: The points of each method, including the unguided policy, all on the same prompts.
        targets: Divergences in nats per response.

    Returns:
        A dictionary for each target that a method reaches. It has `kl` and, under the name of each method that reaches
        the target, `gold` and `gold_se`. If the first method reaches it too, each other method also has `behind` (the
        gold reward of the first method minus its own), `behind_se`, and `behind_low` and `behind_high`, the 95 %
        interval by paired bootstrap.
    """
    rows = []
    for target in targets:
        reached = {name: gold for name, points in curves.items() if (gold := at_divergence(points, target))}
        row: dict[str, Any] = {"kl": target}
        for name, gold in reached.items():
            estimate = mean_with_error(gold)
            row[name] = {"gold": estimate.mean, "gold_se": estimate.error}
            first = next(iter(curves))
            if name != first and first in reached:
                difference = paired_difference(reached[first], gold)
                low, high = bootstrap_interval([a - b for a, b in zip(reached[first], gold, strict=True)])
                row[name] |= {
                    "behind": difference.mean,
                    "behind_se": difference.error,
                    "behind_low": low,
                    "behind_high": high,
                }
        if reached:
            rows.append(row)
    return rows
