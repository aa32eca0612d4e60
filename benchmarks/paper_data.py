"""The tasks of paper_table.py: a gold reward, training pairs that it ranked, and prompts that no pair comes from."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import make_demo_data
from heads_common import held_out_prompts
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgtg_hf.cli.demo_policy import demo_policy_path
from rgtg_hf.cli.demo_rows import preference_pairs, tokenize_pair
from rgtg_hf.evaluation.gold import flesch_reading_ease, vader_sentiment

__all__ = ["TASKS", "Task", "evaluation_prompts", "training_pairs", "training_prompts", "write_atomically"]


@dataclass(frozen=True)
class Task:
    """What the policy is steered towards.

    Attributes:
        gold: The gold reward of texts.
        gold_name: Its name.
        smallest_gap: Two responses to a prompt make a pair if their gold rewards differ by at least this.
    """

    gold: Callable[[Sequence[str]], list[float]]
    gold_name: str
    smallest_gap: float


TASKS = {
    "sentiment": Task(vader_sentiment, "VADER sentiment", 0.3),
    "plain": Task(flesch_reading_ease, "Flesch reading ease", 10.0),
}


def evaluation_prompts(number: int | None = None) -> list[str]:
    """Prompts that neither pairs nor pilots come from."""
    return held_out_prompts()[:number]


def training_prompts() -> list[str]:
    """The prompts of the demo's pairs."""
    lines = (make_demo_data.FOLDER / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["prompt"] for row in map(json.loads, lines) if row["split"] == "train"]


def training_pairs(task: str, tokenizer: Any, folder: Path, prompts: int | None = None) -> list[dict[str, Any]]:
    """The pairs of a task as messages, and their ids: `chosen_ids`, `rejected_ids`, which begin with the prompt's.

    Sentiment has the demo's pairs. Plain language ranks responses sampled in the same way (for the demo's prompts,
    with its settings and seed) by its own gold reward; the samples are kept in `folder`. Of fewer `prompts` there are
    fewer.
    """
    if task == "sentiment":
        rows = preference_pairs()  # of all prompts
    else:
        rows = rank_by(TASKS[task], training_prompts()[:prompts], responses(folder / "responses.json", prompts))
    return [row | tokenize_pair(row, tokenizer) for row in rows]


def responses(file: Path, prompts: int | None) -> list[list[Any]]:
    """Four responses of the policy to each training prompt, with whether they ended by themselves; drawn once."""
    if not file.exists():
        settings = json.loads((make_demo_data.FOLDER / "settings.json").read_text(encoding="utf-8"))
        path = demo_policy_path()
        policy = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
        tokenizer = AutoTokenizer.from_pretrained(path)
        drawn = make_demo_data.sample_responses(policy, tokenizer, training_prompts()[:prompts], settings)
        write_atomically(file, json.dumps(drawn))
    return json.loads(file.read_text(encoding="utf-8"))


def rank_by(task: Task, prompts: list[str], drawn: list[list[Any]]) -> list[dict[str, Any]]:
    """All pairs of responses to one prompt with a clear difference in gold reward, in the demo's form."""
    rows = []
    for prompt, of_prompt in zip(prompts, drawn, strict=True):
        usable = [response for response in of_prompt if response]
        gold = task.gold([text for text, _ in usable])
        ranked = sorted(zip(gold, usable, strict=True), key=lambda pair: -pair[0])
        for place, (high, (chosen, chosen_finished)) in enumerate(ranked):
            for low, (rejected, rejected_finished) in ranked[place + 1 :]:
                if high - low >= task.smallest_gap:
                    rows.append(
                        {
                            "prompt": [{"role": "user", "content": prompt}],
                            "chosen": [{"role": "assistant", "content": chosen}],
                            "rejected": [{"role": "assistant", "content": rejected}],
                            "chosen_finished": chosen_finished,
                            "rejected_finished": rejected_finished,
                        }
                    )
    return rows


def write_atomically(file: Path, text: str) -> None:
    """The file is there whole or not at all, so that a run that was killed goes on without doubt."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=file.name, dir=file.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(partial, file)
