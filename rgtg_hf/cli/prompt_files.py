"""Prompts from the command line or a file, and their token ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.lines import json_rows, text_lines
from rgtg_hf.evaluation.prompts import Prompt, encode_batch

__all__ = ["check_length", "check_text", "encode_prompts", "read_prompt_rows", "read_prompts"]


def read_prompts(arguments: Sequence[str], file: str | None) -> list[Prompt]:
    """Collects the prompts. Those of the command line come first.

    Args:
        arguments: Prompts given on the command line.
        file: A text file with one prompt per line, or a `.jsonl` file whose rows have a `prompt`: text, or a list of
            messages with `role` and `content`. None for no file.

    Returns:
        At least one prompt.

    Raises:
        UserError: If the file is missing, broken or empty, or no prompt was given.
    """
    if any(not prompt.strip() for prompt in arguments):
        raise UserError("a prompt is empty; give each prompt some text")
    prompts: list[Prompt] = list(arguments)
    if file is not None:
        if file.endswith(".jsonl"):
            prompts += [row["prompt"] for row in read_prompt_rows(file)]
        else:
            lines = text_lines("--prompts", Path(file).expanduser())
            prompts += [line.strip() for _, line in lines if line.strip()]
            if not prompts:
                raise UserError(f"--prompts: {file} has no prompts; write one on each line")
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
    for number, row in json_rows("--prompts", Path(file).expanduser()):
        check_text(row, "prompt", f"--prompts: line {number} of {file}")
        rows.append(row)
    if not rows:
        raise UserError(f'--prompts: {file} has no prompts; write rows such as {{"prompt": "Hello!"}}')
    return rows


def encode_prompts(tokenizer: Any, prompts: Sequence[Prompt], *, chat_template: bool = True) -> Any:
    """Turns prompts into one left-padded batch; see [`encode_batch`][rgtg_hf.evaluation.prompts.encode_batch].

    Raises:
        UserError: If the chat template refuses a prompt, or there is none and a prompt is a list of messages.
    """
    with blame_input("a prompt cannot be used", (ValueError,)):
        return encode_batch(tokenizer, prompts, chat_template=chat_template)


def check_length(
    tokenizer: Any, config: Any, prompt: Prompt, number: int, max_new_tokens: int, *, chat_template: bool = True
) -> int:
    """Counts the tokens of a prompt, and refuses a prompt that leaves too little room for its response.

    Args:
        tokenizer: The policy's tokenizer.
        config: The policy's configuration.
        prompt: The prompt.
        number: The prompt's number, from 1, for the message.
        max_new_tokens: Largest number of tokens of its response.
        chat_template: As in [`encode_prompts`].

    Returns:
        The number of tokens.

    Raises:
        UserError: If prompt and response together can be longer than the policy's limit.
    """
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    limit = most if isinstance(most, int) and most > 0 else None
    texts = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
    # A far too long text is not tokenized, because that would take minutes and gigabytes.
    least = sum(map(len, texts)) // max(map(len, tokenizer.get_vocab()), default=1)
    exact = limit is None or least <= limit
    length = encode_prompts(tokenizer, [prompt], chat_template=chat_template)["input_ids"].shape[1] if exact else least
    if limit is not None and length + max_new_tokens > limit:
        raise UserError(
            f"prompt {number} has {'' if exact else 'at least '}{length} tokens and its response may have "
            f"{max_new_tokens}, but the policy's limit is {limit} in all; shorten the prompt, or give a smaller "
            "max_new_tokens"
        )
    return length


def check_text(row: dict[str, Any], name: str, place: str, *, may_be_empty: bool = False) -> None:
    """Checks that a column of a row is text, or a list of messages with `role` and `content`.

    Args:
        row: The row.
        name: The column.
        place: The row's place, for the message.
        may_be_empty: Whether it may be the empty text.

    Raises:
        UserError: If it is something else.
    """
    value = row.get(name)
    if not _is_prompt(value) and not (may_be_empty and value == ""):
        raise UserError(
            f"{place} has no usable `{name}`; it must be text, or a list of messages with `role` and `content`"
        )


def _is_prompt(value: object) -> bool:
    if isinstance(value, str):
        return bool(value.strip())
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
            for message in value
        )
    )
