"""Draws the charts of a report, such as gold reward over divergence or speed."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from rgtg_hf.evaluation.report import ReportRow
from rgtg_hf.files import write_whole

__all__ = ["Series", "draw_reward_vs_kl", "draw_series"]

_INK = "#1f2933"
# Colours that colour-blind readers can distinguish (Okabe and Ito), and markers for print.
_COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", _INK, "#7f7f7f"]
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
        path: The file to write: a PNG, or an SVG that takes the colour of the text around it when it stands in a page.
        title: Title of the chart.
        x_name: Name of the horizontal axis, with its unit.
        y_name: Name of the vertical axis, with its unit.
        log_x: Whether the horizontal axis is logarithmic.

    Raises:
        ImportError: If matplotlib is not installed; it comes with `pip install "rgtg-hf[evaluate]"`.
    """
    named = len(series) > 1
    columns = _legend_columns([one.name for one in series])
    figure, axes = _canvas(height=3.8 + (0.2 * math.ceil(len(series) / columns) if named else 0))
    for place, one in enumerate(series):
        style = {"color": _COLOURS[place % 8], "marker": _MARKERS[place % 8], "markersize": 5, "capsize": 2.5}
        joined = "none" if not one.line else "--" if one.dashed else "-"
        axes.errorbar(one.x, one.y, yerr=one.error, linestyle=joined, linewidth=1.6, label=one.name, **style)
        for label, x, y in zip(one.labels, one.x, one.y, strict=False):
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(8, -13), color=_INK, fontsize=9)
    if named:
        figure.legend(fontsize=9, frameon=False, loc="outside lower left", ncols=columns, labelcolor=_INK)
    if log_x:
        _make_logarithmic(axes)
    axes.set_title(title, color=_INK, fontsize=11, loc="left")
    axes.set_xlabel(x_name, color=_INK)
    axes.set_ylabel(y_name, color=_INK)
    axes.margins(x=0.12, y=0.15)
    axes.grid(color=_INK, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, which="both")
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path, title)


def _make_logarithmic(axes: Any) -> None:
    """The horizontal axis gets numbers such as 0.5 and 20, because most charts span less than a power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


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


def _legend_columns(names: Sequence[str]) -> int:
    """Two columns, which matplotlib fills one after the other, where the longest names of both fit side by side."""
    half = math.ceil(len(names) / 2)
    longest = [max(map(len, column), default=0) for column in (names[:half], names[half:])]
    return 2 if sum(longest) <= 60 else 1


def _save(figure: Any, path: Path, title: str) -> None:
    if path.suffix != ".svg":
        figure.savefig(path)
        return
    from matplotlib import rc_context

    written = io.StringIO()
    # Letters stay letters. Names of parts differ between charts, because a page may hold several.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(
            written, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # The style of matplotlib would hold for the whole page that the chart stands in.
    svg = re.sub(r"<style[^>]*>\*\{(.*?)\}</style>", "", svg)
    root = f'<svg role="img" aria-label="{escape(title)}" style="stroke-linejoin: round; stroke-linecap: butt"'
    write_whole(path, svg.replace("<svg", root, 1))


def _canvas(height: float) -> tuple[Any, Any]:
    try:
        # Figure instead of pyplot: it needs no window system and leaves no global state.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('matplotlib is missing. Install it with: pip install "rgtg-hf[demo]"') from error
    # Narrow, so that its letters can be read on a phone.
    figure = Figure(figsize=(5.4, height), dpi=150, layout="constrained")
    return figure, figure.subplots()
