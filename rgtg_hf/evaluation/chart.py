"""The picture of a report: gold reward against divergence from the policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rgtg_hf.evaluation.report import ReportRow

__all__ = ["draw_reward_vs_kl"]

_INK, _LINE, _GRID = "#1f2933", "#1f5fa8", "#d5dbe1"


def draw_reward_vs_kl(rows: Sequence[ReportRow], path: Path, *, title: str, reward_name: str) -> None:
    """Draws mean gold reward with its standard error over KL, one point per row, labelled with its beta.

    Args:
        rows: The unsteered policy and the steered ones, in order of beta.
        path: The PNG file to write.
        title: What the picture shows, in a few words.
        reward_name: The gold reward's name, for the axis.

    Raises:
        ImportError: If matplotlib is not installed; it comes with `pip install "rgtg-hf[demo]"`.
    """
    try:
        # Figure instead of pyplot: no window system is looked for, and no global state is left behind.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('matplotlib is missing. Install it with: pip install "rgtg-hf[demo]"') from error

    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    kl = [row.kl for row in rows]
    gold = [row.gold_mean for row in rows]
    axes.errorbar(kl, gold, yerr=[row.gold_se for row in rows], color=_LINE, marker="o", capsize=3, linewidth=1.8)
    for row, x, y in zip(rows, kl, gold, strict=True):
        label = "unsteered" if row.beta == 0 else f"β = {row.beta:g}"
        axes.annotate(label, (x, y), textcoords="offset points", xytext=(8, -13), color=_INK, fontsize=9)
    axes.set_title(title, color=_INK, fontsize=11, loc="left")
    axes.set_xlabel("KL to the policy, nats per response", color=_INK)
    axes.set_ylabel(f"{reward_name}, mean ± standard error", color=_INK)
    axes.margins(x=0.12, y=0.15)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
