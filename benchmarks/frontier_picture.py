"""The picture of a comparison: gold reward over divergence, a line for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rgtg_hf.evaluation.chart import Series, draw_series

__all__ = ["draw_frontier"]


def draw_frontier(
    lines: Mapping[str, Sequence[dict[str, Any]]], path: Path, *, gold: str, policy: Mapping[str, Any]
) -> None:
    """Draws rows of [`rows_of`][benchmarks.pieces.rows_of], with the policy, at no divergence, in the title.

    Args:
        lines: The rows of each name, eight names at most. Those of several methods are not joined, and a line is
            dashed where divergences are bounds.
        path: The file to write.
        gold: Name of the gold reward.
        policy: The policy's row.
    """
    series = []
    for name, rows in lines.items():
        bound = rows[0]["kl is a bound"]
        golds, errors = zip(*(row["gold"] for row in rows), strict=True)
        joined = len({row["method"] for row in rows}) == 1
        name += " (KL: bound)" * bound
        series.append(Series(name, [row["kl"] for row in rows], golds, errors, line=joined, dashed=bound))
    draw_series(
        series,
        path,
        title=f"{gold}; without guidance {policy['gold'][0]:.3g}",
        x_name="KL to the policy, nats per response",
        y_name="mean ± standard error",
        log_x=True,
    )
