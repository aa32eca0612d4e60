"""The finished rows of a run, on disk, so that an interrupted run continues where it stopped.

Finished rows are written to `OUTPUT.partial` at once. The batches are planned from the input and the settings alone.
Several processes (`accelerate launch`) take turns at the batches, each with its own partial file. The result does not
depend on the number of processes, which may change after an interruption.
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

__all__ = ["PartialOutput", "digest", "has_finished_rows", "work_through"]


class _Row(Protocol):
    @property
    def index(self) -> int: ...


_R = TypeVar("_R", bound=_Row)


class PartialOutput:
    """The finished rows of a run, on disk.

    Use it in a `with` block. At the end of the block the rows of all processes are put in order into one file. If the
    block is interrupted, the partial file is kept.

    Args:
        output: The file that the finished run leaves.
        header: The settings and prompts, as JSON values. A continued run must have the same ones.
        processes: This process and the number of all. Each process writes its own file and reads all files.

    Raises:
        UserError: If `output` exists, cannot be written, or was started with other prompts or settings.
    """

    def __init__(self, output: Path, header: dict[str, Any], processes: Processes) -> None:
        self.output = output
        self.processes = processes
        self.path = output.with_name(f"{output.name}.partial" + (f"-{processes.index}" if processes.index else ""))
        self.done: dict[int, dict[str, Any]] = {}
        self._header = {name: digest(value) for name, value in header.items()}
        try:
            self._read_others()
            kept = self._read(self.path) if self.path.exists() else 0
            # A finished file with exactly these rows is from this run, which was killed before it could clean up.
            if output.exists() and not (self.done and output.read_bytes() == self._ordered()):
                raise UserError(f"--output: {output} exists; move it away or choose another name")
            self._open(kept)
        except OSError as error:
            raise UserError(f"--output: {self.path} cannot be written ({error.strerror})") from error

    def __enter__(self) -> PartialOutput:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.close()
        if kind is None:
            self.processes.wait()
            if self.processes.index == 0:
                self.finish()
        elif issubclass(kind, KeyboardInterrupt):
            raise KeyboardInterrupt(f"the finished rows are in {self.path}; the same command continues from them")

    def _read_others(self) -> None:
        for path in _partial_files(self.output):
            if path != self.path:
                self._read(path)

    def _read(self, path: Path) -> int:
        """Reads the rows of a partial file. Returns how many of its bytes are complete lines."""
        # A kill may leave half a line at the end, and a crash of the machine may leave any bytes. Another process may
        # be writing at this moment.
        content = path.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        rows = [_parse(line) for line in lines]
        whole = next((number for number, row in enumerate(rows) if number and not _is_row(row)), len(rows))
        if rows[0] != self._header if rows else not _line(self._header).startswith(content):
            # A run that ended before its first row, in an error perhaps, leaves its header alone.
            if len(rows) == 1 and isinstance(rows[0], dict) and rows[0].keys() == self._header.keys():
                return 0
            raise UserError(
                f"--output: {path} was started with other prompts or settings; give the same ones to continue, "
                "or remove it to start over"
            )
        self.done |= {row["index"]: row for row in rows[1:whole]}
        return sum(map(len, lines[:whole]))

    def _open(self, kept: int) -> None:
        # Not buffered: after a full disk has refused a line, closing the file must not write it again.
        self._file = self.path.open("ab", buffering=0)
        self._file.truncate(kept)
        if not kept:
            self._write(self._header)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Appends finished rows, each with its `index`. Rows that are already there stay as they are."""
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
                f"--output: {self.path} cannot be written ({error.strerror}); it keeps the finished rows, and the "
                "same command continues from them"
            ) from error

    def _ordered(self) -> bytes:
        return b"".join(_line(self.done[index]) for index in sorted(self.done))

    def close(self) -> None:
        """Closes the partial file and keeps it."""
        self._file.close()

    def finish(self) -> None:
        """Writes the rows of all processes, in order, to the output file and removes the partial files."""
        self._file.close()
        self._read_others()
        try:
            write_whole(self.output, self._ordered().decode())
        except OSError as error:
            raise UserError(
                f"--output: {self.output} cannot be written ({error.strerror}); all rows are in {self.path}, and the "
                "same command puts them in order"
            ) from error
        for path in _partial_files(self.output):
            path.unlink()


def has_finished_rows(output: Path) -> bool:
    """Whether a run that writes to `output` has finished, or has finished rows in a partial file."""
    return output.exists() or any(path.read_bytes().count(b"\n") > 1 for path in _partial_files(output))


def _partial_files(output: Path) -> list[Path]:
    name = re.compile(re.escape(f"{output.name}.partial") + r"(-\d+)?")
    return [path for path in output.parent.iterdir() if name.fullmatch(path.name)]


def digest(value: Any) -> str:
    """A hash of a value. It shows whether two settings differ without keeping them, since they may name folders."""
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
) -> None:
    """Makes the rows that are missing, with a progress bar that shows tokens per second and the time left.

    Process 0 shows the bar, for its own share of the work.

    Args:
        output: Where the rows are written.
        batches: All batches, finished ones included. Each of their rows has an `index`.
        make_rows: Makes the rows of a batch from its number and the batch. Each row has the `index`, and may have a
            number of `tokens`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    start, tokens = time.perf_counter(), 0
    processes = output.processes
    # Only results are written to stdout, so the bar is on stderr.
    share = {row.index for batch in batches[processes.index :: processes.count] for row in batch}
    with Progress(*columns, console=Console(stderr=True), disable=processes.index > 0) as progress:
        task = progress.add_task("", total=len(share), completed=len(share & output.done.keys()), speed="")
        for number, batch in enumerate(batches):
            if number % processes.count != processes.index or all(row.index in output.done for row in batch):
                continue
            rows = make_rows(number, batch)
            output.add(rows)
            tokens += sum(row.get("tokens", 0) for row in rows)
            speed = f"{tokens / (time.perf_counter() - start):.0f} tokens/s" if tokens else ""
            progress.update(task, completed=len(share & output.done.keys()), speed=speed)
