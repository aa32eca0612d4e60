"""Rows that are done so far, on disk, so that a run that was interrupted goes on where it stopped.

Finished rows go to `OUTPUT.partial` at once. Work is planned in batches from the input and the settings alone. Several
processes (`accelerate launch`) take turns at the batches, each with a partial file of its own; what comes out does not
depend on how many there are, nor on how many there were before an interruption.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.processes import Processes
from rgtg_hf.files import write_whole

__all__ = ["PartialOutput", "digest", "work_through"]


class _Row(Protocol):
    @property
    def index(self) -> int: ...


_R = TypeVar("_R", bound=_Row)


class PartialOutput:
    """The rows that are done so far, on disk.

    Args:
        output: The file that the finished run leaves.
        header: What an interrupted run and its continuation must share, settings and prompts, as JSON has them. Only
            hashes of it are written: a model may be somebody's folder.
        rows: How many rows the finished run has.
        process: Which of several processes this is. Each writes a file of its own and reads everybody's.

    Raises:
        UserError: If `output` exists, cannot be written, or was begun with other prompts or settings.
    """

    def __init__(self, output: Path, header: dict[str, Any], rows: int, process: int = 0) -> None:
        self.output = output
        self.path = output.with_name(f"{output.name}.partial" + (f"-{process}" if process else ""))
        self.done: dict[int, dict[str, Any]] = {}
        self._header = {name: digest(value) for name, value in header.items()}
        try:
            self._read_others()
            kept = self._read(self.path) if self.path.exists() else 0
            # With all rows beside it, it is this run's own, which was killed before it could clean up.
            if output.exists() and len(self.done) < rows:
                raise UserError(f"--output: {output} exists; move it away or choose another name")
            self._open(kept)
        except OSError as error:
            raise UserError(f"--output: {self.path} cannot be written ({error.strerror})") from error

    def _read_others(self) -> None:
        for path in self._partial_files():
            if path != self.path:
                self._read(path)

    def _partial_files(self) -> list[Path]:
        name = re.compile(re.escape(f"{self.output.name}.partial") + r"(-\d+)?")
        return [path for path in self.output.parent.iterdir() if name.fullmatch(path.name)]

    def _read(self, path: Path) -> int:
        """Takes over the rows of a partial file; returns how many of its bytes are whole lines."""
        # A kill may have left half a line at the end, a crash of the machine worse; another process may be writing.
        content = path.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        rows = [_parse(line) for line in lines]
        whole = next((number for number, row in enumerate(rows) if number and not _is_row(row)), len(rows))
        if rows[0] != self._header if rows else not _line(self._header).startswith(content):
            raise UserError(
                f"--output: {path} was begun with other prompts or settings; give the same ones to go on, "
                "or remove it to begin anew"
            )
        self.done |= {row["index"]: row for row in rows[1:whole]}
        return sum(map(len, lines[:whole]))

    def _open(self, kept: int) -> None:
        # Not buffered: what a full disk refused must not be tried again when the file is closed.
        self._file = self.path.open("ab", buffering=0)
        self._file.truncate(kept)
        if not kept:
            self._write(self._header)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Appends finished rows, each with its `index`; rows that are there already are left as they are."""
        for row in rows:
            if row["index"] not in self.done:
                self._write(row)
                self.done[row["index"]] = row

    def _write(self, row: dict[str, Any]) -> None:
        line = _line(row)
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise UserError(
                f"--output: {self.path} cannot be written ({error.strerror}); the finished rows are kept there, and "
                "the same command goes on from them"
            ) from error

    def close(self) -> None:
        """Closes the partial file and keeps it."""
        self._file.close()

    def finish(self) -> None:
        """Puts the rows of all processes in order under the output's name and removes the partial files."""
        self._file.close()
        self._read_others()
        try:
            write_whole(self.output, b"".join(_line(self.done[i]) for i in sorted(self.done)).decode())
        except OSError as error:
            raise UserError(
                f"--output: {self.output} cannot be written ({error.strerror}); all rows are in {self.path}, and the "
                "same command puts them in order"
            ) from error
        for path in self._partial_files():
            path.unlink()


def digest(value: Any) -> str:
    """A hash of something that JSON can hold, to know it again without writing it down."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("index"), int)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def work_through(
    output: PartialOutput,
    batches: Sequence[list[_R]],
    make_rows: Callable[[int, list[_R]], list[dict[str, Any]]],
    processes: Processes,
) -> None:
    """Makes the rows that are not there yet, with a progress bar that shows tokens per second and the time left.

    Args:
        output: Where the rows go.
        batches: All batches, those that are done included; each of their rows has an `index`.
        make_rows: Makes the rows of a batch, given its number too; each with the `index` and a number of `tokens`.
        processes: This process among several. The bar is that of process 0 and tells of its own share.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    start, tokens = time.perf_counter(), 0
    # The bar goes to stderr, as all that is not output does.
    share = {row.index for batch in batches[processes.index :: processes.count] for row in batch}
    with Progress(*columns, console=Console(stderr=True), disable=processes.index > 0) as progress:
        task = progress.add_task("", total=len(share), completed=len(share & output.done.keys()), speed="")
        for number, batch in enumerate(batches):
            if number % processes.count != processes.index or all(row.index in output.done for row in batch):
                continue
            rows = make_rows(number, batch)
            output.add(rows)
            tokens += sum(row["tokens"] for row in rows)
            speed = f"{tokens / (time.perf_counter() - start):.0f} tokens/s"
            progress.update(task, completed=len(share & output.done.keys()), speed=speed)
