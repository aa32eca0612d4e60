"""`rgtg-hf generate --output`: many prompts into a file, surviving interruption.

Batches are planned from the prompts and the settings alone, and each has a seed of its own, so that a run that was
interrupted and started again writes what an undisturbed run writes. When all is done the rows are put in the order of
the prompts, and the file appears under its own name.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rgtg_hf.cli.checks import check_guidance
from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.partial import PartialOutput, work_through
from rgtg_hf.cli.processes import Processes

__all__ = ["BatchRow", "PartialOutput", "plan_batches", "run_header", "settings_of_rows", "write_responses"]

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


def run_header(options: argparse.Namespace, rows: Sequence[BatchRow]) -> dict[str, Any]:
    """What an interrupted run and its continuation must share: settings and prompts."""
    return {
        "settings": {name: getattr(options, name) for name in _SETTINGS},
        "prompts": [(row.prompt, row.beta, row.max_new_tokens) for row in rows],
    }


def write_responses(
    output: PartialOutput,
    batches: Sequence[list[BatchRow]],
    respond: Callable[[list[BatchRow]], list[list[int]]],
    decode: Callable[[list[int]], str],
    seed: int,
    processes: Processes,
) -> None:
    """Writes what is not written yet, with a progress bar.

    Args:
        output: Where the rows go.
        batches: All batches of [`plan_batches`], those that are done included.
        respond: Generates the response ids of a batch, without prompt and padding.
        decode: Turns ids into text.
        seed: Batch number n is sampled with `seed + n`.
        processes: This process among several.
    """
    from transformers import set_seed

    def make_rows(number: int, batch: list[BatchRow]) -> list[dict[str, Any]]:
        set_seed(seed + number)
        return [
            {
                "index": row.index,
                "prompt": row.prompt,
                "response": decode(ids),
                "beta": row.beta,
                "max_new_tokens": row.max_new_tokens,
                "tokens": len(ids),
            }
            for row, ids in zip(batch, respond(batch), strict=True)
        ]

    work_through(output, batches, make_rows, processes)
