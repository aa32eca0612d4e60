"""Accuracy by how much of the response has been read: what prefix training is for, as a curve."""

from __future__ import annotations

import json
import logging
from pathlib import Path

__all__ = ["CURVE_FRACTIONS", "save_curves", "summarize"]

CURVE_FRACTIONS = tuple(i / 10 for i in range(1, 11))
logger = logging.getLogger(__name__)


def summarize(wins: dict[float, list[float]]) -> dict[str, list[float] | int]:
    """Averages the comparisons at each fraction.

    Args:
        wins: For each fraction of the response, 1, 0 or (a tie) 0.5 for each pair.

    Returns:
        `fraction_read`, `accuracy` and `standard_error` (of the mean over pairs), lists of one length, and `pairs`.
    """
    fractions = sorted(wins)
    pairs = len(wins[fractions[0]])
    accuracy = [sum(wins[fraction]) / pairs for fraction in fractions]
    errors = []
    for fraction, mean in zip(fractions, accuracy, strict=True):
        variance = sum((win - mean) ** 2 for win in wins[fraction]) / max(1, pairs - 1)
        errors.append((variance / pairs) ** 0.5)
    return {"fraction_read": fractions, "accuracy": accuracy, "standard_error": errors, "pairs": pairs}


def save_curves(curves: dict[str, dict], directory: str | Path) -> None:
    """Writes `accuracy_by_fraction_read.json`, and a picture of it if matplotlib is installed.

    Args:
        curves: For each evaluation set a dictionary as [`summarize`] gives it.
        directory: Where to write; it is made if it does not exist.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "accuracy_by_fraction_read.json").write_text(json.dumps(curves, indent=2) + "\n")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        logger.warning("The curve was saved without a picture: matplotlib is not installed.")
        return
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.errorbar(curve["fraction_read"], curve["accuracy"], curve["standard_error"], marker="o", label=name)
    axes.axhline(0.5, color="gray", linewidth=0.8, linestyle="--")
    axes.set(xlabel="fraction of the responses read", ylabel="pairs ranked right")
    axes.legend()
    figure.savefig(directory / "accuracy_by_fraction_read.png", dpi=150)
