"""The picture of a comparison: gold reward over divergence, a line for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rgtg_hf.evaluation.chart import Series, draw_series

__all__ = ["draw_frontier"]


def draw_frontier(lines: Mapping[str, Sequence[dict[str, Any]]], path: Path, *, title: str, gold: str) -> None:
    """Draws rows of [`rows_of`][benchmarks.pieces.rows_of].

    Args:
        lines: The rows of each name, eight names at most. Those of several methods are not joined, and a line is
            dashed where divergences are bounds.
        path: The file to write.
        title: Title of the picture.
        gold: Name of the gold reward.
    """
    series = []
    for name, rows in lines.items():
        bound = rows[-1]["kl is a bound"]
        series.append(
            Series(
                name + (" (KL: bound)" if bound else ""),
                [row["kl"] for row in rows],
                [row["gold"][0] for row in rows],
                [row["gold"][1] for row in rows],
                line=len({row["method"] for row in rows} - {"policy"}) == 1,
                dashed=bound,
            )
        )
    draw_series(
        series,
        path,
        title=title,
        x_name="KL to the policy, nats per response",
        y_name=f"{gold}, mean ± standard error",
    )
