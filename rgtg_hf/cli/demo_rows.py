"""The demo's prompts and preference pairs, and the ids that a policy would have read and written for them."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["evaluation_prompts", "gold_reward_name", "pairs_fingerprint", "preference_pairs", "tokenize_pair"]


def evaluation_prompts() -> list[str]:
    """The prompts that no preference pair comes from."""
    return [row["prompt"] for row in _rows("prompts.jsonl") if row["split"] == "eval"]


def preference_pairs() -> list[dict[str, Any]]:
    """Rows with `prompt`, `chosen` and `rejected` as messages; `*_finished` tells whether it ended by itself."""
    return _rows("pairs.jsonl")


def pairs_fingerprint() -> str:
    """A hash of the pairs, which tells a reward model trained on others."""
    return hashlib.sha256(_read("pairs.jsonl").encode()).hexdigest()[:16]


def gold_reward_name() -> str:
    """What judged the pairs, in words."""
    return json.loads(_read("settings.json"))["gold_reward"]


def tokenize_pair(row: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Turns a pair into ids, exactly as decoding meets them.

    The prompt ends with the template's opening of the assistant's turn. A response that ended by itself is closed by
    the end-of-sequence token; one that was cut off at the sampling limit is not, because no end was seen there.

    Args:
        row: One of [`preference_pairs`].
        tokenizer: The policy's tokenizer, with a chat template.

    Returns:
        `chosen_ids` and `rejected_ids`, both beginning with the same `prompt_length` ids.
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
    return (files("rgtg_hf.cli") / "demo_data" / name).read_text(encoding="utf-8")
