"""Draws evaluation prompts from files of preference pairs, which the project does not contain.

    python -m benchmarks.baselines.prompts alpacaeval.jsonl hh.jsonl --each 200 --output prompts.jsonl

Rows have `prompt`, or `chosen` in the format of HH, of which the first question is taken. Prompts that the models are
trained on, long ones and repeated ones are left out. Which of the rest are drawn depends on nothing but their text.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.models import load_policy
from rgtg_hf.cli.demo.demo_rows import training_prompts
from rgtg_hf.cli.lines import json_lines
from rgtg_hf.evaluation.prompts import last_message
from rgtg_hf.files import write_whole

LONGEST = 64  # tokens, so that prompts cost little beside responses


def draw(file: Path, count: int, tokenizer: Any) -> list[str]:
    """The prompts of a file whose hashes are the smallest."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
        found = {_prompt(json.loads(line)) for line in lines} - set(training_prompts())
    short = [prompt for prompt in found if prompt and len(tokenizer(prompt)["input_ids"]) <= LONGEST]
    return sorted(short, key=lambda prompt: hashlib.sha256(prompt.encode()).hexdigest())[:count]


def _prompt(row: dict[str, Any]) -> str:
    if "prompt" in row:
        return last_message(row["prompt"]).strip()
    return row["chosen"].split("\n\nHuman: ")[1].split("\n\nAssistant:")[0].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="JSON lines, compressed or not")
    parser.add_argument("--each", type=int, default=200, help="prompts of each file")
    parser.add_argument("--output", type=Path, default=Path("outputs/baselines/prompts.jsonl"))
    options = parser.parse_args()
    _, tokenizer = load_policy()
    rows = [
        {"prompt": prompt, "source": file.name.split(".")[0]}
        for file in options.files
        for prompt in draw(file, options.each, tokenizer)
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.output, json_lines(rows))
    print(f"{len(rows)} prompts in {options.output}")


if __name__ == "__main__":
    main()
