"""Methods at equal divergence from the policy: any reward can be had for enough of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from rgtg_hf.evaluation.statistics import bootstrap_interval, mean_with_error, paired_difference

__all__ = ["FrontierPoint", "at_divergence", "compare_at_divergence"]


class FrontierPoint(NamedTuple):
    """What one strength of steering reached on all prompts.

    Attributes:
        divergence: Mean over the responses of KL(pi || pi_LM), in nats per response.
        gold: Gold reward per prompt.
    """

    divergence: float
    gold: Sequence[float]


def at_divergence(points: Sequence[FrontierPoint], target: float) -> list[float] | None:
    """Gold reward per prompt at a divergence, read off a line between the two nearest strengths.

    Because it is linear within each prompt, what it gives can be paired with another method's, prompt by prompt.

    Args:
        points: Strengths of one trained model in any order, the unsteered policy (divergence 0) among them, all on the
            same prompts.
        target: Nats per response.

    Returns:
        One gold reward per prompt; `None` beyond the largest divergence: nothing is extrapolated.

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
            f"No point has a divergence of at most {target}: put the unsteered policy, at 0, among the points."
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
    """Methods at equal divergence, and the first of them against each other one, prompt by prompt.

    Args:
        curves: The points of each method, the unsteered policy among them, all on the same prompts.
        targets: Nats per response.

    Returns:
        For each target that some method reaches a dictionary with `kl`; for each method that reaches it, under its
        name, `gold` and `gold_se`; and for each but the first, where both reach it, `behind` (the first's gold above
        its own), `behind_se` and `behind_low`, `behind_high`, the 95 % interval by paired bootstrap.
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
