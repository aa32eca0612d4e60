"""From preference rows to what the loss needs: token ids, where the response begins, and where it ends.

TRL's own preparation turns text and conversations into `chosen_ids` and `rejected_ids`. What prefixes need on top of
that is found here: the length of the prompt, and the end of the response. A chat template writes closing tokens after
an answer (`<|im_end|>` and a newline, say). They are the end of a finished response, one step like the
end-of-sequence token of plain text, and are cut after the token at which generation stops.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

__all__ = [
    "TEXT",
    "TOKENIZED",
    "PrefixCollator",
    "common_prefix_length",
    "count_rows",
    "dropped_rows",
    "locate_responses",
]

TOKENIZED = ("chosen_ids", "rejected_ids")
TEXT = ("chosen", "rejected")


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of leading tokens that two sequences share."""
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length


def locate_responses(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    counts: Counter,
    num_proc: int | None = None,
) -> Dataset | IterableDataset:
    """Adds `prompt_length` to tokenized rows, cuts closing tokens, and drops rows that cannot be compared.

    The prompt is what the row says it is: a `prompt_length` column, `prompt_ids`, or an explicit `prompt`. With an
    implicit prompt it is what the two sequences of tokens share.

    Args:
        dataset: Rows with `chosen_ids` and `rejected_ids`, and the columns they were made from.
        tokenizer: The tokenizer that made the ids.
        counts: Is told how many rows were dropped by reason (`"equal"`, `"empty"`) or kept (`""`). A stream is read
            only later, and its counts grow meanwhile.
        num_proc: Number of processes, as in `Dataset.map`. Streams ignore it.

    Returns:
        The data set.
    """
    options: dict[str, Any] = {}
    if isinstance(dataset, Dataset):
        options = {"num_proc": num_proc, "desc": "Locating responses"}
    dataset = dataset.map(_locate, fn_kwargs={"tokenizer": tokenizer}, **options)
    if isinstance(dataset, IterableDataset):
        dataset = dataset.filter(_is_kept, fn_kwargs={"counts": counts})
    else:
        counts.update(dataset["dropped"])
        if any(dataset["dropped"]):
            dataset = dataset.filter(_is_kept, num_proc=num_proc, desc="Dropping rows")
    return dataset.remove_columns("dropped")


def _is_kept(row: dict[str, Any], counts: Counter | None = None) -> bool:
    if counts is not None:
        counts[row["dropped"]] += 1
    return not row["dropped"]


def count_rows(stream: IterableDataset, counts: Counter) -> IterableDataset:
    """Counts a stream's rows under `"read"` as they pass. Processes that load data would count for themselves."""
    return stream.filter(_is_counted, fn_kwargs={"counts": counts})


def _is_counted(row: dict[str, Any], counts: Counter) -> bool:
    counts["read"] += 1
    return True


def dropped_rows(counts: Counter) -> Counter:
    """How many rows were dropped, by reason.

    Args:
        counts: What [`locate_responses`] found, with the number of rows from before tokenization under `"read"`. Those
            that are missing since then were too long.
    """
    found = counts.total() - counts["read"]
    dropped = Counter({"too long": counts["read"] - found, "equal": counts["equal"], "empty": counts["empty"]})
    return +dropped


def _locate(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    closing = _closing_tokens(row, tokenizer)
    chosen, rejected = (_cut_closing(row[column], closing, tokenizer) for column in TOKENIZED)
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
        # What invites an answer may differ from how an answer then begins (an empty thought, for example).
        prompt_ids, required = (_render(prompt, row, tokenizer, add_generation_prompt=add) for add in (True, False))
    else:
        return None
    for column, ids in zip(TOKENIZED, (chosen, rejected), strict=True):
        if ids[: len(required)] != required:
            raise ValueError(
                f"The prompt is not a prefix of the conversation: `{column}` has other tokens at its beginning than "
                f"the prompt alone, which begins {tokenizer.decode(required)[:80]!r}. Use a chat template that writes "
                "earlier turns alike whatever follows, or leave out `prompt` and give whole conversations."
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
    """What the chat template writes after an answer: what the ends of two different answers have in common."""
    messages = row.get("chosen")
    if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
        return []
    # A short conversation shows it as well as the row's own, and renders sooner.
    question = {"role": "user", "content": "0"}
    first, second = (
        _render([question, {**messages[-1], "content": content}], row, tokenizer)[::-1] for content in "01"
    )
    closing = first[: common_prefix_length(first, second)]
    return closing[::-1]


def _cut_closing(ids: list[int], closing: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Cuts what follows the token at which generation stops: the end-of-sequence token, else the first closing one."""
    if closing and ids[-len(closing) :] == closing:
        stop = closing.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in closing else 0
        return ids[: len(ids) - len(closing) + stop + 1]
    return ids


class PrefixCollator:
    """Makes a batch of pairs: 2B rows padded on the right, chosen rows first.

    Args:
        pad_token_id: The id that fills up rows. The attention mask is 0 there.
        pad_to_multiple_of: Round the length of rows up to a multiple of this.

    """

    def __init__(self, pad_token_id: int, pad_to_multiple_of: int | None = None) -> None:
        self.pad_token_id = pad_token_id
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Collates B rows with `chosen_ids`, `rejected_ids`, `prompt_length` and, optionally, `margin`.

        Returns:
            `input_ids` and `attention_mask` of shape `[2B, S]`; `response_length` of shape `[2B]`; `prompt_length`
            and `shared_length` (how many of the first response tokens both responses share) of shape `[B]`; `margin`
            of shape `[B]` if the rows have one.
        """
        sequences = [row["chosen_ids"] for row in rows] + [row["rejected_ids"] for row in rows]
        prompt_length = [row["prompt_length"] for row in rows]
        longest = max(map(len, sequences))
        if self.pad_to_multiple_of:
            longest += -longest % self.pad_to_multiple_of
        batch = {
            "input_ids": torch.tensor([[*ids, *[self.pad_token_id] * (longest - len(ids))] for ids in sequences]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]),
            "prompt_length": torch.tensor(prompt_length),
            "response_length": torch.tensor(
                [len(ids) - prompt for ids, prompt in zip(sequences, prompt_length * 2, strict=True)]
            ),
            "shared_length": torch.tensor(
                [common_prefix_length(row["chosen_ids"], row["rejected_ids"]) - row["prompt_length"] for row in rows]
            ),
        }
        if "margin" in rows[0]:
            batch["margin"] = torch.tensor([float(row["margin"]) for row in rows])
        return batch
