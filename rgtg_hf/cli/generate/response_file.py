"""`rgtg-hf generate --output`: responses to many prompts in a file, by a run that may be interrupted.

The batches are planned from the prompts and the settings alone, and each batch has its own seed. So a run that was
interrupted and started again writes the same rows as a run without interruption. At the end the rows are put in the
order of the prompts, and the file gets its final name.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rgtg_hf.arguments import check_count, check_number
from rgtg_hf.cli.errors import blame_input
from rgtg_hf.cli.partial import PartialOutput, work_through

__all__ = ["BatchRow", "plan_batches", "run_header", "settings_of_rows", "write_responses"]

_PER_ROW = ("beta", "max_new_tokens")
# A continued run must have the same values of these options.
_SETTINGS = [
    *("model", "reward_model", "greedy", "temperature", "top_p", "seed"),
    *("batch_size", "no_chat_template", "dtype", "trust_remote_code"),
]


@dataclass(frozen=True)
class BatchRow:
    """One prompt with its position in the file and its settings."""

    index: int
    prompt: Any
    beta: float
    max_new_tokens: int


def settings_of_rows(rows: Sequence[dict[str, Any]], options: argparse.Namespace) -> list[BatchRow]:
    """Gives each row its own `beta` and `max_new_tokens`, or those of the command line.

    Raises:
        UserError: If a row's setting is out of range.
    """
    result = []
    for index, row in enumerate(rows):
        settings = {name: row.get(name, getattr(options, name)) for name in _PER_ROW}
        beta, max_new_tokens = settings["beta"], settings["max_new_tokens"]
        with blame_input(f"--prompts: prompt {index + 1}", (TypeError, ValueError)):
            check_number("beta", beta)
            check_count("max_new_tokens", max_new_tokens)
        result.append(BatchRow(index, row["prompt"], float(beta), max_new_tokens))
    return result


def plan_batches(rows: Sequence[BatchRow], length: Callable[[BatchRow], int], batch_size: int) -> list[list[BatchRow]]:
    """Groups rows with the same settings and similar lengths, so that batches need little padding.

    Args:
        rows: All rows, finished ones included.
        length: Returns the length of a row's prompt.
        batch_size: Largest number of rows per batch.

    Returns:
        The batches, longest prompts first, so that a batch too large for the memory fails at once.
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
    """The settings and prompts of a run. A continued run must have the same ones."""
    return {
        "settings": {name: getattr(options, name) for name in _SETTINGS}
        | {name: value for name, value in vars(options.guidance).items() if name not in _PER_ROW},
        "prompts": [(row.prompt, row.beta, row.max_new_tokens) for row in rows],
    }


def write_responses(
    output: PartialOutput,
    batches: Sequence[list[BatchRow]],
    respond: Callable[[list[BatchRow]], list[list[int]]],
    decode: Callable[[list[int]], str],
    seed: int,
) -> None:
    """Writes the responses that are missing, with a progress bar.

    Args:
        output: Where the rows are written.
        batches: All batches of [`plan_batches`], finished ones included.
        respond: Generates the response ids of a batch, without prompt and padding.
        decode: Turns ids into text.
        seed: Batch number n is sampled with `seed + n`.
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

    work_through(output, batches, make_rows)
