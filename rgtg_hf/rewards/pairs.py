"""From a preference row to token ids: where the two responses begin, and where they end.

A chat template writes closing tokens after an answer (`<|im_end|>` and a newline, say). They are the end of a finished
response, one step like the end-of-sequence token of plain text, so they are cut after the token at which generation
stops.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

__all__ = ["TEXT", "TOKENIZED", "common_prefix_length", "pair_ids"]

TEXT = ("chosen", "rejected")
TOKENIZED = ("chosen_ids", "rejected_ids")


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading tokens that two sequences share."""
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length


def pair_ids(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Tokenizes a preference row and finds its responses. Training and evaluation both read pairs through it.

    The prompt is what the row says it is: a `prompt_length` column, `prompt_ids`, or an explicit `prompt`. With an
    implicit prompt it is what the two sequences of tokens share.

    Args:
        row: `chosen` and `rejected`, as text or as messages, with or without `prompt`; or `chosen_ids` and
            `rejected_ids`, tokenized already. Messages may come with `tools` and `chat_template_kwargs`.
        tokenizer: The reward model's tokenizer.

    Returns:
        `chosen_ids` and `rejected_ids`, prompt included; `prompt_length`; and `dropped`, which is `""` if the pair can
        be compared, and otherwise says why it cannot: `"equal"` or `"empty"`.

    Raises:
        ValueError: If the prompt's tokens are not the beginning of the conversation's.

    Example:
        ```python
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
        from rgtg_hf.rewards.pairs import pair_ids

        words = Tokenizer(models.WordLevel({"<end>": 0, "Why": 1, "so": 2, "not": 3}, unk_token="<end>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>")
        ids = pair_ids({"prompt": "Why ", "chosen": "so ", "rejected": "not "}, tokenizer)
        assert ids == {"chosen_ids": [1, 2, 0], "rejected_ids": [1, 3, 0], "prompt_length": 1, "dropped": ""}
        ```
    """
    closing = _closing_tokens(row, tokenizer)
    chosen, rejected = (_cut_closing(ids, closing, tokenizer) for ids in _tokenize(row, tokenizer))
    prompt_length = _explicit_prompt_length(row, chosen, rejected, tokenizer)
    explicit = prompt_length is not None
    if prompt_length is None:
        prompt_length = common_prefix_length(chosen, rejected)

    ends = {tokenizer.eos_token_id, *closing[:1]}
    # An answer that says nothing is a fault in the data. With an implicit prompt it may as well be an answer that
    # the other one continues, and is kept.
    content = [len(ids) - (explicit and ids[-1] in ends) for ids in (chosen, rejected)]
    dropped = "equal" if chosen == rejected else "empty" if min(content) <= prompt_length else ""
    return {"chosen_ids": chosen, "rejected_ids": rejected, "prompt_length": prompt_length, "dropped": dropped}


def _tokenize(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of both sides, as TRL makes them."""
    if all(row.get(column) is not None for column in TOKENIZED):
        return [row[column] for column in TOKENIZED]
    sides = []
    for column in TEXT:
        whole = row[column] if row.get("prompt") is None else row["prompt"] + row[column]
        if isinstance(whole, str):
            end: Any = tokenizer.eos_token
            sides.append(tokenizer(whole if row[column].endswith(end) else whole + end)["input_ids"])
        else:
            sides.append(_render(whole, row, tokenizer))
    return sides


def _explicit_prompt_length(
    row: dict[str, Any], chosen: list[int], rejected: list[int], tokenizer: PreTrainedTokenizerBase
) -> int | None:
    if row.get("prompt_length") is not None:
        return row["prompt_length"]
    prompt = row.get("prompt")
    if row.get("prompt_ids") is not None:
        prompt_ids = required = row["prompt_ids"]
    elif isinstance(prompt, str):
        # Text is tokenized together with its prompt, so the prompt's last characters may share a token with the
        # response; that token belongs to the response.
        prompt_ids, required = tokenizer(prompt)["input_ids"], []
    elif prompt:
        # The tokens that invite an answer may differ from those with which an answer begins (an empty thought, say).
        prompt_ids, required = (_render(prompt, row, tokenizer, add_generation_prompt=add) for add in (True, False))
    else:
        return None
    for column, ids in zip(TOKENIZED, (chosen, rejected), strict=True):
        if ids[: len(required)] != required:
            raise ValueError(
                f"The prompt is not a prefix of the conversation: `{column}` begins with other tokens than the prompt "
                f"alone, which begins {tokenizer.decode(required)[:80]!r}. Use a chat template that writes earlier "
                "turns in the same way whatever follows, or leave out `prompt` and give whole conversations."
            )
    return min(common_prefix_length(prompt_ids, chosen), common_prefix_length(prompt_ids, rejected))


def _render(
    messages: list[dict], row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, **options: Any
) -> list[int]:
    tools = row.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) else tools
    options = {"tools": tools, **(row.get("chat_template_kwargs") or {}), **options}
    encoded: Any = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
    return encoded["input_ids"]


def _closing_tokens(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that a chat template writes after an answer: two different answers end with the same ones."""
    messages = row.get("chosen")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return []
    # A short conversation shows them as well as the row's own does, and renders sooner.
    question = {"role": "user", "content": "0"}
    first, second = (
        _render([question, {**messages[-1], "content": content}], row, tokenizer)[::-1] for content in "01"
    )
    return first[: common_prefix_length(first, second)][::-1]


def _cut_closing(ids: list[int], closing: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Cuts the tokens after the end-of-sequence token, or after the first closing one if there is none."""
    if closing and ids[-len(closing) :] == closing:
        stop = closing.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in closing else 0
        return ids[: len(ids) - len(closing) + stop + 1]
    return ids
