"""Draws prompts from files of preference pairs, which the project does not contain: for evaluation, or for rollouts.

    python -m benchmarks.baselines.prompts alpacaeval.jsonl hh.jsonl --each 200 --output prompts.jsonl
    python -m benchmarks.baselines.prompts FILES --each 5000 --without prompts.jsonl --output others.jsonl

Rows have `prompt`, or `chosen` in the format of HH, of which the first question is taken. Prompts that the models are
trained on, long ones and repeated ones are left out. Which of the rest are drawn depends on nothing but their text.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.models import load_policy
from rgtg_hf.cli.demo.demo_rows import training_prompts
from rgtg_hf.cli.lines import json_lines, json_rows
from rgtg_hf.evaluation.prompts import last_message
from rgtg_hf.files import write_whole

LONGEST = 64  # tokens, so that prompts cost little beside responses


def draw(file: Path, count: int, tokenizer: Any, without: set[str]) -> list[str]:
    """The prompts of a file whose hashes are the smallest, without some."""
    found = {_prompt(row) for _, row in json_rows("files", file)} - without
    return by_hash(prompt for prompt in found if prompt and len(tokenizer(prompt)["input_ids"]) <= LONGEST)[:count]


def by_hash(prompts: Iterable[str]) -> list[str]:
    """Prompts in an order that depends on nothing but their text."""
    return sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.encode()).hexdigest())


def _prompt(row: dict[str, Any]) -> str:
    if "prompt" in row:
        return last_message(row["prompt"]).strip()
    return row["chosen"].split("\n\nHuman: ")[1].split("\n\nAssistant:")[0].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="JSON lines, compressed or not")
    parser.add_argument("--each", type=int, default=200, help="prompts of each file")
    parser.add_argument("--without", type=Path, nargs="*", default=[], help="files of prompts that are left out")
    parser.add_argument("--output", type=Path, default=Path("outputs/baselines/prompts.jsonl"))
    options = parser.parse_args()
    _, tokenizer = load_policy()
    without = set(training_prompts())
    for file in options.without:
        without |= {row["prompt"] for _, row in json_rows("--without", file)}
    rows = []
    for file in options.files:
        found = draw(file, options.each, tokenizer, without)
        rows += [{"prompt": prompt, "source": file.name.split(".")[0]} for prompt in found]
        without |= set(found)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.output, json_lines(rows))
    print(f"{len(rows)} prompts in {options.output}")


if __name__ == "__main__":
    main()
