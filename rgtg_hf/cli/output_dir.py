"""Output folders. A command writes only into a new folder or into one that `rgtg-hf` made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError
from rgtg_hf.files import write_whole
from rgtg_hf.version import __version__

__all__ = ["check_output_dir", "claim_output_dir", "read_marker", "write_marker"]

_MARKER = "rgtg_hf.json"


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The notes of an earlier run in `folder`; None if `rgtg-hf` did not make the folder."""
    try:
        noted = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) else None


def write_marker(folder: Path, **notes: Any) -> None:
    """Marks `folder` as made by `rgtg-hf`, with notes for a later run."""
    write_whole(folder / _MARKER, json.dumps({"rgtg_hf": __version__, **notes}, indent=2) + "\n")


def check_output_dir(folder: Path, option: str = "--output_dir") -> None:
    """Checks that a run may write to `folder`: it does not exist, is empty, or was made by an earlier run.

    Raises:
        UserError: If the folder has other contents, or is a file.
    """
    if folder.is_dir():
        if read_marker(folder) is None and any(folder.iterdir()):
            raise UserError(
                f"{option}: {folder} exists, is not empty and was not made by rgtg-hf; choose another folder, or "
                "move its contents away"
            )
    elif folder.exists():
        raise UserError(f"{option}: {folder} is a file; choose a folder")


def claim_output_dir(folder: Path, **notes: Any) -> None:
    """Creates `folder` and marks it as made by `rgtg-hf`, after the check of [`check_output_dir`].

    Args:
        folder: The output folder.
        notes: Notes for its marker.

    Raises:
        UserError: If the folder has other contents, or cannot be written.
    """
    check_output_dir(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_marker(folder, **notes)
    except OSError as error:
        raise UserError(f"--output_dir: {folder} cannot be written ({error.strerror})") from error
