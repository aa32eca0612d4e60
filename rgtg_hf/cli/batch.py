"""`rgtg-hf generate --output`: many prompts into a file, surviving interruption.

Finished rows go to `OUTPUT.partial` at once. Batches are planned from the prompts and the settings alone, and each has
a seed of its own, so that a run that was interrupted and started again writes what an undisturbed run writes. When all
is done the rows are put in the order of the prompts, and the file appears under its own name.

Several processes (`accelerate launch`) take turns at the batches, each with a partial file of its own; what comes out
does not depend on how many there are, nor on how many there were before an interruption.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgtg_hf.cli.checks import check_guidance
from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.processes import Processes
from rgtg_hf.files import write_whole

__all__ = ["BatchRow", "PartialOutput", "plan_batches", "settings_of_rows", "write_responses"]

_PER_ROW = ("beta", "max_new_tokens")
# What an interrupted run and its continuation must share, besides the prompts.
_SETTINGS = [
    *("model", "reward_model", "top_k", "greedy", "temperature", "top_p", "seed"),
    *("batch_size", "no_chat_template", "dtype", "trust_remote_code"),
]


@dataclass(frozen=True)
class BatchRow:
    """One prompt with its place in the file and its own settings."""

    index: int
    prompt: Any
    beta: float
    max_new_tokens: int


def settings_of_rows(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> list[BatchRow]:
    """Gives each row the command line's settings, unless it brings its own `beta` or `max_new_tokens`.

    Raises:
        UserError: If a row's setting is out of range.
    """
    result = []
    for index, row in enumerate(rows):
        settings = {name: row.get(name, getattr(options, name)) for name in _PER_ROW}
        beta, max_new_tokens = settings["beta"], settings["max_new_tokens"]
        if isinstance(beta, bool) or not isinstance(beta, int | float):
            raise UserError(f"--prompts: `beta` of prompt {index + 1} is {beta!r}; it must be a number")
        check_guidance(beta, options.top_k)
        if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
            raise UserError(
                f"--prompts: `max_new_tokens` of prompt {index + 1} is {max_new_tokens!r}; it must be a whole number "
                "of at least 1"
            )
        result.append(BatchRow(index, row["prompt"], float(beta), max_new_tokens))
    return result


def plan_batches(rows: Sequence[BatchRow], length: Callable[[BatchRow], int], batch_size: int) -> list[list[BatchRow]]:
    """Groups rows with the same settings and about the same length, so that little padding is computed.

    Args:
        rows: All rows, whether done already or not.
        length: How long a row's prompt is.
        batch_size: Rows per batch at most.

    Returns:
        The batches, longest prompts first: what does not fit into memory fails at once.
    """
    groups: dict[tuple[float, int], list[BatchRow]] = defaultdict(list)
    for row in rows:
        groups[row.beta, row.max_new_tokens].append(row)
    batches = []
    for group in groups.values():
        ordered = sorted(group, key=lambda row: (-length(row), row.index))
        batches += [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    return batches


class PartialOutput:
    """The rows that are done so far, on disk.

    Args:
        output: The file that the finished run leaves.
        options: The command's options, which an interrupted run and its continuation must share.
        rows: All prompts; they too must be the same.
        process: Which of several processes this is. Each writes a file of its own and reads everybody's.

    Raises:
        UserError: If `output` exists, cannot be written, or was begun with other prompts or settings.
    """

    def __init__(self, output: Path, options: argparse.Namespace, rows: Sequence[BatchRow], process: int = 0) -> None:
        self.output = output
        self.path = output.with_name(f"{output.name}.partial" + (f"-{process}" if process else ""))
        self.done: dict[int, dict[str, Any]] = {}
        settings = {name: getattr(options, name) for name in _SETTINGS}
        prompts = [(row.prompt, row.beta, row.max_new_tokens) for row in rows]
        self._header = {"settings": _digest(settings), "prompts": _digest(prompts)}  # a model may be somebody's folder
        try:
            self._read_others()
            kept = self._read(self.path) if self.path.exists() else 0
            # With all rows beside it, it is this run's own, which was killed before it could clean up.
            if output.exists() and len(self.done) < len(rows):
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


def _digest(value: Any) -> str:
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


def write_responses(
    output: PartialOutput,
    batches: Sequence[list[BatchRow]],
    respond: Callable[[list[BatchRow]], list[list[int]]],
    decode: Callable[[list[int]], str],
    seed: int,
    processes: Processes,
) -> None:
    """Writes what is not written yet, with a progress bar that shows tokens per second and the time left.

    Args:
        output: Where the rows go.
        batches: All batches of [`plan_batches`], those that are done included.
        respond: Generates the response ids of a batch, without prompt and padding.
        decode: Turns ids into text.
        seed: Batch number n is sampled with `seed + n`.
        processes: This process among several. The bar is that of process 0 and tells of its own share.
    """
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from transformers import set_seed

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    start, tokens = time.perf_counter(), 0
    # The bar goes to stderr, as all that is not output does.
    share = {row.index for batch in batches[processes.index :: processes.count] for row in batch}
    with Progress(*columns, console=Console(stderr=True), disable=processes.index > 0) as progress:
        task = progress.add_task("", total=len(share), completed=len(share & output.done.keys()), speed="")
        for number, batch in enumerate(batches):
            if number % processes.count != processes.index or all(row.index in output.done for row in batch):
                continue
            set_seed(seed + number)
            responses = respond(batch)
            output.add(
                [
                    {
                        "index": row.index,
                        "prompt": row.prompt,
                        "response": decode(ids),
                        "beta": row.beta,
                        "max_new_tokens": row.max_new_tokens,
                        "tokens": len(ids),
                    }
                    for row, ids in zip(batch, responses, strict=True)
                ]
            )
            tokens += sum(map(len, responses))
            speed = f"{tokens / (time.perf_counter() - start):.0f} tokens/s"
            progress.update(task, completed=len(share & output.done.keys()), speed=speed)
