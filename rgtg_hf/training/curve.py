"""The curve of accuracy by how much of the responses has been read, as a file and as a picture."""

from __future__ import annotations

import json
import logging
from pathlib import Path

__all__ = ["save_curves"]

logger = logging.getLogger(__name__)


def save_curves(curves: dict[str, dict], directory: str | Path) -> None:
    """Writes `accuracy_by_fraction_read.json`, and a picture of it if matplotlib is installed.

    Args:
        curves: For each evaluation set the result of
            [`accuracy_curve`][rgtg_hf.rewards.pair_accuracy.accuracy_curve].
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
