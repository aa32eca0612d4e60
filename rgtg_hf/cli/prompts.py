"""Prompts: from the command line or a file, and into the ids that the policy reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError

__all__ = ["encode_prompts", "read_prompt_rows", "read_prompts"]

Prompt = str | list[dict[str, str]]


def read_prompts(arguments: Sequence[str], file: str | None) -> list[Prompt]:
    """Collects the prompts, those of the command line first.

    Args:
        arguments: Prompts given on the command line.
        file: A text file with one prompt per line, or a `.jsonl` file whose rows have a `prompt`: text, or a list of
            messages with `role` and `content`. None for no file.

    Returns:
        At least one prompt.

    Raises:
        UserError: If the file is missing, broken or empty, or there is no prompt at all.
    """
    if any(not prompt.strip() for prompt in arguments):
        raise UserError("a prompt is empty; give each prompt some text")
    prompts: list[Prompt] = list(arguments)
    if file is not None:
        if file.endswith(".jsonl"):
            prompts += [row["prompt"] for row in read_prompt_rows(file)]
        else:
            prompts += [line.strip() for line in _read(file).splitlines() if line.strip()]
            if not prompts:
                raise UserError(f"--prompts: {file} has no prompts; put one on each line")
    if not prompts:
        raise UserError("no prompt was given; write one after the options, or name a file with --prompts")
    return prompts


def read_prompt_rows(file: str) -> list[dict[str, Any]]:
    """Reads the rows of a JSON-lines file of prompts.

    Args:
        file: The file. Blank lines are skipped.

    Returns:
        At least one row, each with a usable `prompt`.

    Raises:
        UserError: If the file is missing or empty, or a line is not a row with a prompt.
    """
    rows = []
    for number, line in enumerate(_read(file).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"--prompts: line {number} of {file} is not JSON ({error})") from error
        if not isinstance(row, dict) or not _is_prompt(row.get("prompt")):
            raise UserError(
                f"--prompts: line {number} of {file} has no usable `prompt`; it must be text, or a list of messages "
                "with `role` and `content`"
            )
        rows.append(row)
    if not rows:
        raise UserError(f'--prompts: {file} has no prompts; each line is a row such as {{"prompt": "Hello!"}}')
    return rows


def encode_prompts(tokenizer: Any, prompts: Sequence[Prompt], *, chat_template: bool = True) -> Any:
    """Turns prompts into one left-padded batch.

    Args:
        tokenizer: The policy's tokenizer. It is left padding on the left, and with a pad token where it had none.
        prompts: Text or lists of messages.
        chat_template: Render the prompts by the tokenizer's chat template, where it has one; text becomes the user's
            message. Otherwise text is continued as it stands.

    Returns:
        A `BatchEncoding` of tensors `input_ids` and `attention_mask`, each of shape `[prompts, length]`.

    Raises:
        UserError: If messages were given and there is no chat template to render them.
    """
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template and tokenizer.chat_template:
        messages = [[{"role": "user", "content": p}] if isinstance(p, str) else p for p in prompts]
        return tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError("prompts are lists of messages, but there is no chat template to render them with; give text")
    return tokenizer(list(prompts), padding=True, return_tensors="pt")


def _is_prompt(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(message, dict) and {"role", "content"} <= message.keys() for message in value)
    )


def _read(file: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"--prompts: {file} cannot be read ({reason})") from error
