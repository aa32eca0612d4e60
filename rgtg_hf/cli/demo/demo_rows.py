"""The demo's prompts and preference pairs, and the token ids of a pair."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = [
    "evaluation_prompts",
    "gold_reward_name",
    "pairs_fingerprint",
    "preference_pairs",
    "tokenize_pair",
    "training_prompts",
]


def evaluation_prompts() -> list[str]:
    """The prompts that have no preference pairs."""
    return [row["prompt"] for row in _rows("prompts.jsonl") if row["split"] == "eval"]


def training_prompts() -> list[str]:
    """The prompts that the preference pairs came from, and a few without any."""
    return [row["prompt"] for row in _rows("prompts.jsonl") if row["split"] == "train"]


def preference_pairs() -> list[dict[str, Any]]:
    """Rows with `prompt`, `chosen` and `rejected` as messages; `*_finished` says whether a response is complete."""
    return _rows("pairs.jsonl")


def pairs_fingerprint() -> str:
    """A hash of the pairs. It differs for a reward model that was trained on other pairs."""
    return hashlib.sha256(_read("pairs.jsonl").encode()).hexdigest()[:16]


def gold_reward_name() -> str:
    """The name of the gold reward that ordered the pairs."""
    return json.loads(_read("settings.json"))["gold_reward"]


def tokenize_pair(row: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Turns a pair into the ids that are read and written during decoding.

    The prompt ends with the template's opening of the assistant's turn. A complete response ends with the
    end-of-sequence token. A response that was cut off at the sampling limit does not.

    Args:
        row: One of [`preference_pairs`].
        tokenizer: The policy's tokenizer, with a chat template.

    Returns:
        `chosen_ids` and `rejected_ids`, both starting with the same `prompt_length` ids.
    """
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    tokenized: dict[str, Any] = {"prompt_length": len(prompt)}
    for side in ("chosen", "rejected"):
        response = tokenizer(row[side][0]["content"], add_special_tokens=False)["input_ids"]
        ending = [tokenizer.eos_token_id] if row[f"{side}_finished"] else []
        tokenized[f"{side}_ids"] = [*prompt, *response, *ending]
    return tokenized


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _read(name).splitlines()]


@cache
def _read(name: str) -> str:
    return (files("rgtg_hf.cli.demo") / "demo_data" / name).read_text(encoding="utf-8")
