"""Rows of a report, and the versions, hardware and commit that belong to it."""

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
    """The results of one method on the evaluation prompts.

    Attributes:
        method: Name of the method.
        beta: Strength of steering; 0 for the unguided policy.
        gold_mean: Mean gold reward over prompts.
        gold_se: Standard error of `gold_mean`.
        paired_diff: Mean over prompts of the gold reward minus the unguided policy's on the same prompt.
        paired_se: Standard error of `paired_diff`.
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
    unguided_gold: Sequence[float],
    divergences: Sequence[float],
    tokens_per_second: float,
) -> ReportRow:
    """Summarizes one method.

    Args:
        method: Name of the method.
        beta: Strength of steering.
        gold: Gold reward per prompt.
        unguided_gold: The unguided policy's gold reward on the same prompts, in the same order.
        divergences: KL(pi || pi_LM) of each response, in nats.
        tokens_per_second: Generated tokens per second.

    Returns:
        The row.

    Example:
        ```python
        from rgtg_hf.evaluation.report import report_row

        row = report_row("guided", 1.0, [0.5, 0.7], [0.1, 0.3], [2.0, 4.0], 100.0)
        assert row.kl == 3.0 and abs(row.paired_diff - 0.4) < 1e-9
        ```
    """
    mean, error = mean_with_error(gold)
    difference, difference_error = paired_difference(gold, unguided_gold)
    kl = mean_with_error(divergences).mean
    return ReportRow(method, beta, mean, error, difference, difference_error, kl, tokens_per_second)


def write_json(path: Path, rows: Sequence[Any], **details: Any) -> None:
    """Writes `{"rows": [...], **details}`, whole or not at all.

    Args:
        path: The file, which is replaced if it exists.
        rows: The rows of the table, dataclass instances.
        details: Further entries: versions, commit, seed, settings.
    """
    text = json.dumps({"rows": [asdict(row) for row in rows], **details}, indent=2, ensure_ascii=False)
    write_whole(path, text + "\n")


def describe_versions(packages: Sequence[str]) -> Mapping[str, str | None]:
    """The versions of Python and of packages.

    Args:
        packages: Distribution names as on PyPI.

    Returns:
        Versions by name, None for a package that is not installed.
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def describe_hardware() -> Mapping[str, Any]:
    """The hardware of this machine: processor, cores, threads, and the accelerator if there is one."""
    import torch

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": accelerator,
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def find_commit(folder: Path) -> str | None:
    """The git commit of a folder, with `-dirty` if tracked files in the folder have uncommitted changes.

    Args:
        folder: A folder of tracked files.

    Returns:
        The commit, or None outside a checkout (an installed package, or no git).
    """
    try:
        # An installed package may lie inside the repository of another project, which does not track it.
        if not _git(folder, "ls-files", "--", "."):
            return None
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changes else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
