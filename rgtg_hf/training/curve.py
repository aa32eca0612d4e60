"""The curves of evaluations, as files and as pictures: accuracy by how much was read, and calibration of values."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rgtg_hf.rewards.value_calibration import TRUST, trusted_value_beta

__all__ = ["ACCURACY_FILE", "CALIBRATION_FILE", "save_calibrations", "save_curves"]

logger = logging.getLogger(__name__)

ACCURACY_FILE = "accuracy_by_fraction_read.json"
CALIBRATION_FILE = "calibration.json"
_GUIDE = {"color": "gray", "linewidth": 0.8, "linestyle": "--"}


def save_curves(curves: dict[str, dict], directory: str | Path) -> None:
    """Writes `accuracy_by_fraction_read.json`, and a picture of it if matplotlib is installed.

    Args:
        curves: For each evaluation set the result of
            [`accuracy_curve`][rgtg_hf.rewards.pair_accuracy.accuracy_curve].
        directory: Where to write; it is made if it does not exist.
    """
    _save(curves, Path(directory) / ACCURACY_FILE, _draw_accuracy, (5, 3.2))


def save_calibrations(calibrations: dict[str, dict], directory: str | Path) -> None:
    """Writes `calibration.json`, and a picture of it if matplotlib is installed.

    Args:
        calibrations: For each evaluation set the result of
            [`calibration`][rgtg_hf.rewards.value_calibration.calibration].
        directory: Where to write; it is made if it does not exist.
    """
    _save(calibrations, Path(directory) / CALIBRATION_FILE, _draw_calibration, (8, 3.4))


def _save(curves: dict[str, dict], file: Path, draw: Callable[[Any, dict[str, dict]], None], size: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(curves, indent=2) + "\n")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        logger.warning("The curve was saved without a picture: matplotlib is not installed.")
        return
    figure = Figure(figsize=size, layout="constrained")
    draw(figure, curves)
    figure.savefig(file.with_suffix(".png"), dpi=150)


def _draw_accuracy(figure: Any, curves: dict[str, dict]) -> None:
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.errorbar(curve["fraction_read"], curve["accuracy"], curve["standard_error"], marker="o", label=name)
    axes.axhline(0.5, **_GUIDE)
    axes.set(xlabel="fraction of the responses read", ylabel="pairs ranked right")
    axes.legend()


def _draw_calibration(figure: Any, calibrations: dict[str, dict]) -> None:
    returns, ratios = figure.subplots(1, 2)
    for name, found in calibrations.items():
        returns.plot(found["expected"], found["found"], marker="o", label=name)
        ends = [min(found["expected"]), max(found["expected"])]
        returns.plot(ends, ends, **_GUIDE)
        errors = [2 * error for error in found["standard_error"]]
        label = f"{name}: trusted to {trusted_value_beta(found):.3g}"
        ratios.errorbar(found["value_beta"], found["log_ratio"], errors, marker="o", capsize=3, label=label)
    returns.set(xlabel="expected return of a prefix", ylabel="found return")
    for limit in (-TRUST, 0.0, TRUST):
        ratios.axhline(limit, **_GUIDE)
    ratios.set(xlabel="value_beta", ylabel="log E exp(b (r - V_b)), nats", xscale="log")
    for axes in (returns, ratios):
        axes.legend()
