"""One table of methods: gold reward with its error, divergence from the policy, speed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rgtg_hf.evaluation.statistics import mean_with_error, paired_difference
from rgtg_hf.files import write_whole

__all__ = ["ReportRow", "describe_hardware", "describe_versions", "find_commit", "report_row", "write_json"]


@dataclass(frozen=True)
class ReportRow:
    """What one method reached on the evaluation prompts.

    Attributes:
        method: Its name.
        beta: Strength of steering; 0 for the unsteered policy.
        gold_mean: Mean gold reward over prompts.
        gold_se: Its standard error.
        paired_diff: Mean over prompts of the gold reward minus the unsteered policy's on the same prompt.
        paired_se: The standard error of that difference.
        kl: Mean over responses of KL(pi || pi_LM), in nats per response.
        tokens_per_s: Generated tokens per second, all rows of the batch together.
    """

    method: str
    beta: float
    gold_mean: float
    gold_se: float
    paired_diff: float
    paired_se: float
    kl: float
    tokens_per_s: float


def report_row(
    method: str,
    beta: float,
    gold: Sequence[float],
    unsteered_gold: Sequence[float],
    divergences: Sequence[float],
    tokens_per_second: float,
) -> ReportRow:
    """Sums up one method.

    Args:
        method: Its name.
        beta: Strength of steering.
        gold: Gold reward per prompt.
        unsteered_gold: The unsteered policy's gold reward on the same prompts, in the same order.
        divergences: Nats per response.
        tokens_per_second: Throughput.

    Returns:
        The row.

    Example:
        ```python
        from rgtg_hf.evaluation.report import report_row

        row = report_row("steered", 1.0, [0.5, 0.7], [0.1, 0.3], [2.0, 4.0], 100.0)
        assert row.kl == 3.0 and abs(row.paired_diff - 0.4) < 1e-9
        ```
    """
    mean, error = mean_with_error(gold)
    difference, difference_error = paired_difference(gold, unsteered_gold)
    kl = mean_with_error(divergences).mean
    return ReportRow(method, beta, mean, error, difference, difference_error, kl, tokens_per_second)


def write_json(path: Path, rows: Sequence[Any], **details: Any) -> None:
    """Writes `{"rows": [...], **details}`. The file is there whole or not at all.

    Args:
        path: The file; one that exists is replaced.
        rows: The table, a list of dataclass instances.
        details: What else belongs to the record: versions, commit, seed, settings.
    """
    text = json.dumps({"rows": [asdict(row) for row in rows], **details}, indent=2, ensure_ascii=False)
    write_whole(path, text + "\n")


def describe_versions(packages: Sequence[str]) -> Mapping[str, str | None]:
    """The Python version and those of installed packages; None for one that is not installed.

    Args:
        packages: Distribution names as on PyPI.

    Returns:
        Versions by name.
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def describe_hardware() -> Mapping[str, Any]:
    """What the figures were measured on: architecture, cores, and the accelerator if there is one."""
    import torch

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": accelerator,
    }


def find_commit(folder: Path) -> str | None:
    """The git commit that the files of `folder` belong to, with `-dirty` where tracked files were changed.

    Args:
        folder: A folder of tracked files.

    Returns:
        The commit, or None outside a checkout (an installed package, or no git).
    """
    try:
        # An installed package may lie inside someone else's repository, which does not track it.
        tracked = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--", "."], capture_output=True, text=True, check=True
        ).stdout
        if not tracked:
            return None
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
