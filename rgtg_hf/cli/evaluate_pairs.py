"""Held-out preference pairs as token ids, for `rgtg-hf evaluate --pairs`."""

from __future__ import annotations

from typing import Any

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.preferences import check_preferences, load_preferences

__all__ = ["read_pairs"]


def read_pairs(name: str, tokenizer: Any) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompt, preferred and rejected response of each pair, as decoding meets them: an end token closes a response.

    Args:
        name: A file, folder or hub data set of pairs with an explicit `prompt`, as text or as messages.
        tokenizer: The policy's.

    Raises:
        UserError: If there are no such pairs, or their prompts are not given apart.
    """
    rows = load_preferences(name, None, "train")
    check_preferences(rows, name)
    if "prompt" not in rows.column_names:
        raise UserError(f"--pairs: {name} has no column `prompt`, so where the responses begin is not known")
    return [
        (
            _prompt_ids(row["prompt"], tokenizer),
            _response_ids(row["chosen"], tokenizer),
            _response_ids(row["rejected"], tokenizer),
        )
        for row in rows
    ]


def _prompt_ids(prompt: Any, tokenizer: Any) -> list[int]:
    if isinstance(prompt, str) and not tokenizer.chat_template:
        return tokenizer(prompt)["input_ids"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]


def _response_ids(response: Any, tokenizer: Any) -> list[int]:
    text = response if isinstance(response, str) else response[-1]["content"]
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
