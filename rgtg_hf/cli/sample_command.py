"""`rgtg-hf sample`: preference pairs and prompts to try the other commands with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.next_command import suggest
from rgtg_hf.cli.parser import LineParser

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Writes the demo's preference pairs, and its evaluation prompts, which no pair came from.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If a file exists or cannot be written.
    """
    options = _parser().parse_args(list(arguments))
    from rgtg_hf.cli.demo.demo_policy import HUB_NAME
    from rgtg_hf.cli.demo.demo_rows import evaluation_prompts, preference_pairs

    pairs = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in preference_pairs()]
    prompts = [{"prompt": prompt} for prompt in evaluation_prompts()]
    files = [(options.pairs, pairs, "preference pairs")]
    if options.prompts:
        files.append((options.prompts, prompts, "prompts"))
    for file, _, _ in files:
        if Path(file).exists():
            raise UserError(f"{file} exists; choose another name, or remove it")
    for file, rows, kind in files:
        _write(Path(file), rows)
        print(f"{file}: {len(rows)} {kind}")
    start = ("--model_name_or_path", HUB_NAME, "--num_layers", "10", "--num_train_epochs", "1")
    suggest("rgtg-hf", "train", *start, "--dataset_name", options.pairs, "--output_dir", "my_reward_model")


def _write(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    with blame_input(f"{file} cannot be written", (OSError,)):
        file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


def _parser() -> LineParser:
    parser = LineParser(
        "sample",
        "Write preference pairs and prompts to try the other commands with.",
        "PAIRS [PROMPTS]",
        ["rgtg-hf sample pairs.jsonl prompts.jsonl"],
    )
    add = parser.group("files")
    add("pairs", metavar="PAIRS", help="801 pairs of cheerful and less cheerful responses, as .jsonl rows")
    add("prompts", metavar="PROMPTS", nargs="?", help="44 prompts that no pair came from")
    return parser
