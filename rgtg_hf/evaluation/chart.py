"""Draws the charts of a report, such as gold reward over divergence or speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rgtg_hf.evaluation.report import ReportRow

__all__ = ["Series", "draw_reward_vs_kl", "draw_series"]

_INK, _GRID = "#1f2933", "#d5dbe1"
# Colours that colour-blind readers can distinguish (Okabe and Ito), and markers for print.
_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f"]
_MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Series:
    """The points of one method.

    Attributes:
        name: Name in the legend.
        x: Horizontal positions.
        y: Measured values.
        error: Standard error of each value; none by default.
        labels: Label of each point; none by default.
        line: Whether to join the points. Set it to False where no values exist between them.
        dashed: Whether the line is dashed, for example for a bound.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    labels: Sequence[str] = field(default=())
    line: bool = True
    dashed: bool = False


def draw_series(
    series: Sequence[Series], path: Path, *, title: str, x_name: str, y_name: str, log_x: bool = False
) -> None:
    """Draws several methods in one chart.

    Args:
        series: At most eight methods.
        path: The PNG file to write.
        title: Title of the chart.
        x_name: Name of the horizontal axis, with its unit.
        y_name: Name of the vertical axis, with its unit.
        log_x: Whether the horizontal axis is logarithmic.

    Raises:
        ImportError: If matplotlib is not installed; it comes with `pip install "rgtg-hf[evaluate]"`.
    """
    figure, axes = _canvas(width=6.4 if len(series) == 1 else 8.6)  # leaves room for a legend
    for place, one in enumerate(series):
        style = {"color": _COLOURS[place % 8], "marker": _MARKERS[place % 8], "markersize": 5, "capsize": 2.5}
        joined = "none" if not one.line else "--" if one.dashed else "-"
        axes.errorbar(one.x, one.y, yerr=one.error, linestyle=joined, linewidth=1.6, label=one.name, **style)
        for label, x, y in zip(one.labels, one.x, one.y, strict=False):
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(8, -13), color=_INK, fontsize=9)
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if log_x:
        axes.set_xscale("log")
    axes.set_title(title, color=_INK, fontsize=11, loc="left")
    axes.set_xlabel(x_name, color=_INK)
    axes.set_ylabel(y_name, color=_INK)
    axes.margins(x=0.12, y=0.15)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def draw_reward_vs_kl(rows: Sequence[ReportRow], path: Path, *, title: str, reward_name: str) -> None:
    """Draws the mean gold reward and its standard error over KL, one point per row, labelled with its beta.

    Args:
        rows: The rows of the unguided and the guided policy, ordered by beta.
        path: The PNG file to write.
        title: Title of the chart.
        reward_name: Name of the gold reward, for the axis.

    Raises:
        ImportError: If matplotlib is not installed; it comes with `pip install "rgtg-hf[demo]"`.
    """
    line = Series(
        "guided",
        [row.kl for row in rows],
        [row.gold_mean for row in rows],
        [row.gold_se for row in rows],
        ["unguided" if row.beta == 0 else f"β = {row.beta:g}" for row in rows],
    )
    draw_series(
        [line],
        path,
        title=title,
        x_name="KL to the policy, nats per response",
        y_name=f"{reward_name}, mean ± standard error",
    )


def _canvas(width: float) -> tuple[Any, Any]:
    try:
        # Figure instead of pyplot: it needs no window system and leaves no global state.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('matplotlib is missing. Install it with: pip install "rgtg-hf[demo]"') from error
    figure = Figure(figsize=(width, 4.2), dpi=150, layout="constrained")
    return figure, figure.subplots()
