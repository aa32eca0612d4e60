"""The tasks of the benchmarks: a gold reward, training pairs that it ranked, and held-out prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import load_policy
from benchmarks.training import demo_data
from rgtg_hf.cli.demo import demo_rows
from rgtg_hf.evaluation.gold import flesch_reading_ease, vader_sentiment
from rgtg_hf.files import write_whole

__all__ = ["TASKS", "Task", "held_out_prompts", "prompts_of_pairs", "training_pairs"]


@dataclass(frozen=True)
class Task:
    """The goal of steering.

    Attributes:
        gold: The gold reward of texts.
        gold_name: Its name.
        second: Another judge of the same goal, made by others in another way. Where it falls while the gold reward
            rises, steering has found the gold reward's weaknesses.
        second_name: Its name.
        smallest_gap: Two responses to a prompt make a pair if their gold rewards differ by at least this.
    """

    gold: Callable[[Sequence[str]], list[float]]
    gold_name: str
    second: Callable[[Sequence[str]], list[float]]
    second_name: str
    smallest_gap: float


def polarity(texts: Sequence[str]) -> list[float]:
    """The sentiment of texts by TextBlob: the mean polarity of the adjectives of another lexicon, from -1 to 1."""
    from textblob import TextBlob

    return [float(TextBlob(text).sentiment.polarity) for text in texts]


def school_years(texts: Sequence[str]) -> list[float]:
    """The Coleman-Liau index, negated, from -20 to 0: letters in place of syllables tell how long words are."""
    import textstat

    # Within limits, because a single long word would outweigh all other texts in a mean.
    return [-min(max(textstat.coleman_liau_index(text), 0.0), 20.0) if text.strip() else 0.0 for text in texts]


TASKS = {
    "sentiment": Task(vader_sentiment, "VADER sentiment", polarity, "TextBlob polarity", 0.3),
    "plain": Task(flesch_reading_ease, "Flesch reading ease", school_years, "Coleman-Liau index, negated", 10.0),
}


def held_out_prompts() -> list[str]:
    """The demo's evaluation prompts and sixty more. No training pair has any of them."""
    more = (Path(__file__).parent / "held_out_prompts.txt").read_text(encoding="utf-8").splitlines()
    return [*demo_rows.evaluation_prompts(), *more]


def prompts_of_pairs() -> list[str]:
    """The training prompts that have a pair."""
    return list(dict.fromkeys(row["prompt"][0]["content"] for row in demo_rows.preference_pairs()))


def training_pairs(task: str, tokenizer: Any, folder: Path, prompts: int | None = None) -> list[dict[str, Any]]:
    """The pairs of a task as messages and as ids: `chosen_ids`, `rejected_ids`, which begin with the prompt's.

    The task `sentiment` has the demo's pairs. The task `plain` ranks responses by its own gold reward. They are
    sampled like the demo's, for the same prompts, and kept in `folder`.

    Args:
        task: A key of `TASKS`.
        tokenizer: The policy's tokenizer.
        folder: Where sampled responses are kept.
        prompts: Use the responses to the first of the prompts only; `sentiment` always has the pairs of all.
    """
    if task == "sentiment":
        rows = demo_rows.preference_pairs()
    else:
        drawn = _responses(folder / "responses.json", prompts)
        rows = demo_data.make_pairs(
            demo_rows.training_prompts()[:prompts], drawn, TASKS[task].gold, smallest_gap=TASKS[task].smallest_gap
        )
    return [row | demo_rows.tokenize_pair(row, tokenizer) for row in rows]


def _responses(file: Path, prompts: int | None) -> list[list[Any]]:
    """Four responses of the policy to each training prompt, with whether they ended by themselves; sampled once."""
    if not file.exists():
        policy, tokenizer = load_policy()
        settings = json.loads((demo_data.FOLDER / "settings.json").read_text(encoding="utf-8"))
        drawn = demo_data.sample_responses(policy, tokenizer, demo_rows.training_prompts()[:prompts], settings)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(drawn))
    return json.loads(file.read_text(encoding="utf-8"))
