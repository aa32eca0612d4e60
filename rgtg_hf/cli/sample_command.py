"""`rgtg-hf sample`: preference pairs and prompts to try the other commands with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.lines import json_lines
from rgtg_hf.cli.next_command import suggest
from rgtg_hf.cli.parser import LineParser
from rgtg_hf.files import write_whole

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Writes the demo's preference pairs, its evaluation prompts, which no pair came from, and its training prompts.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If a file exists or cannot be written.
    """
    options = _parser().parse_args(list(arguments))
    from rgtg_hf.cli.demo.demo_policy import HUB_NAME
    from rgtg_hf.cli.demo.demo_rows import evaluation_prompts, preference_pairs, training_prompts

    pairs = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in preference_pairs()]
    files = [(options.pairs, pairs, "preference pairs")]
    for file, prompts in ((options.prompts, evaluation_prompts), (options.training_prompts, training_prompts)):
        if file:
            files.append((file, [{"prompt": prompt} for prompt in prompts()], "prompts"))
    for file, _, _ in files:
        if Path(file).exists():
            raise UserError(f"{file} exists; choose another name, or remove it")
    for file, rows, kind in files:
        with blame_input(f"{file} cannot be written", (OSError,)):
            write_whole(file, json_lines(rows))
        print(f"{file}: {len(rows)} {kind}")
    start = ("--model_name_or_path", HUB_NAME, "--num_layers", "10", "--num_train_epochs", "1")
    suggest("rgtg-hf", "train", *start, "--dataset_name", options.pairs, "--output_dir", "my_reward_model")


def _parser() -> LineParser:
    parser = LineParser(
        "sample",
        "Write preference pairs and prompts to try the other commands with.",
        "PAIRS [PROMPTS [TRAINING]]",
        ["rgtg-hf sample pairs.jsonl prompts.jsonl training_prompts.jsonl"],
    )
    add = parser.group("files")
    add("pairs", metavar="PAIRS", help="801 pairs of cheerful and less cheerful responses, as .jsonl rows")
    add("prompts", metavar="PROMPTS", nargs="?", help="44 prompts that no pair came from")
    add("training_prompts", metavar="TRAINING", nargs="?", help="256 other prompts, for rollouts")
    return parser
