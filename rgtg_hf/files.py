"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: str | Path, text: str) -> None:
    """Writes a text file under another name and gives it its own when it is complete and on the disk.

    A kill, a crash or a full disk leaves what was there before.

    Args:
        path: The file, which is replaced if it exists. A link stays one, and what it leads to is replaced.
        text: What to write, as UTF-8.

    Raises:
        OSError: If the file cannot be written; nothing is left of it then.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():  # a pipe or a device, whose name is not ours to take
        path.write_text(text, encoding="utf-8")
        return
    partial = path.with_name(f"{path.name}.writing")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
