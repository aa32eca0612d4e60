"""Text files of lines. Errors of reading name the number of the line."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError

__all__ = ["json_lines", "json_rows", "text_lines"]

_OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def text_lines(option: str, file: Path) -> Iterator[tuple[int, str]]:
    """Reads a file of UTF-8 text, which may be compressed (`.gz`, `.bz2`, `.xz`) and may start with a byte order mark.

    Args:
        option: The option that named the file, for the message.
        file: The file.

    Yields:
        The number of each line, from 1, and the line without its end. Lines end with `\\n` or `\\r\\n` only. Other
        line-breaking characters belong to the text.

    Raises:
        UserError: If the file cannot be read, or a line is not UTF-8.
    """
    try:
        opener: Any = _OPENERS.get(file.suffix, open)
        with opener(file, "rb") as stream:
            for number, line in enumerate(stream, start=1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                try:
                    yield number, line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{option}: line {number} of {file} is not UTF-8 text (byte {error.start + 1} of the line is "
                        f"0x{line[error.start]:02x}); save the file as UTF-8"
                    ) from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"{option}: {file} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def json_rows(option: str, file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Reads a file of JSON lines, each of which is an object. Blank lines are skipped.

    Args:
        option: The option that named the file, for the message.
        file: The file, which may be compressed, as for [`text_lines`].

    Yields:
        The number of each line and its row.

    Raises:
        UserError: If the file cannot be read, or a line is not UTF-8, not JSON or not an object.
    """
    for number, line in text_lines(option, file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\ud" in line or "\\uD" in line:
                json.dumps(row, ensure_ascii=False).encode()  # fails for half of a surrogate pair
        except (ValueError, RecursionError) as error:
            reason = "it contains half a character" if isinstance(error, UnicodeEncodeError) else error
            raise UserError(f"{option}: line {number} of {file} is not JSON ({reason})") from error
        if not isinstance(row, dict):
            raise UserError(f'{option}: line {number} of {file} is not an object; write each row as {{"prompt": "…"}}')
        yield number, row


def json_lines(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as a text of JSON lines, which [`json_rows`] reads."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
