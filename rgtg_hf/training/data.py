"""Prepares data sets of preference pairs, and makes batches from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rgtg_hf.rewards.pairs import TOKENIZED, common_prefix_length, pair_ids

__all__ = ["PrefixCollator", "check_collator", "count_rows", "dropped_rows", "is_located", "locate_responses"]

_USED = (*TOKENIZED, "prompt_length", "dropped", "length", "margin")


def locate_responses(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    counts: Counter,
    num_proc: int | None = None,
    *,
    keep_columns: bool = False,
) -> Dataset | IterableDataset:
    """Turns rows into [`pair_ids`][rgtg_hf.rewards.pairs.pair_ids] and drops those that cannot be compared.

    The column `length`, that of the longer sequence, is for samplers that put rows of like length together.

    Args:
        dataset: Preference rows, tokenized or not.
        tokenizer: The tokenizer.
        counts: Gains the number of rows that were dropped, by reason (`"equal"`, `"empty"`), and of those that were
            kept (`""`). A stream is read only later, and its counts grow then.
        num_proc: Number of processes, as in `Dataset.map`. Streams ignore it.
        keep_columns: Whether to keep the columns that the loss does not use.

    Returns:
        The data set.
    """
    options: dict[str, Any] = {}
    if isinstance(dataset, Dataset):
        unused = [] if keep_columns else [column for column in dataset.column_names if column not in _USED]
        options = {"num_proc": num_proc, "desc": "Locating responses", "remove_columns": unused}
    dataset = dataset.map(_pair_and_length, fn_kwargs={"tokenizer": tokenizer}, **options)
    if isinstance(dataset, IterableDataset):
        return dataset.filter(_is_kept, fn_kwargs={"counts": counts})
    counts.update(dataset["dropped"])
    return dataset.filter(_is_kept, num_proc=num_proc, desc="Dropping rows") if any(dataset["dropped"]) else dataset


def _pair_and_length(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    pair = pair_ids(row, tokenizer)
    return pair | {"length": max(len(pair[column]) for column in TOKENIZED)}


def is_located(dataset: Dataset | IterableDataset) -> bool:
    """Whether a data set comes from [`locate_responses`]."""
    return "dropped" in (dataset.column_names or next(iter(dataset)))


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
    """Counts the dropped rows by reason.

    Args:
        counts: The counts of [`locate_responses`], with the number of rows before tokenization under `"read"`. The
            difference are rows that were too long.
    """
    found = counts.total() - counts["read"]
    dropped = Counter({"too long": counts["read"] - found, "equal": counts["equal"], "empty": counts["empty"]})
    return +dropped


class PrefixCollator:
    """Makes a batch of pairs, with the places where their responses begin and end.

    Args:
        collator: Makes the batch itself, as TRL's `DataCollatorForPreference` does: `input_ids` and `attention_mask`
            of 2B rows padded on the right, chosen rows first, and `margin` if the rows have one.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Tensor]]) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Collates B rows with `chosen_ids`, `rejected_ids`, `prompt_length` and, optionally, `margin`.

        Returns:
            `input_ids` and `attention_mask` of shape `[2B, S]`; `response_length` of shape `[2B]`; `prompt_length`
            and `shared_length` (how many of the first response tokens both responses share) of shape `[B]`; `margin`
            of shape `[B]` if the rows have one.
        """
        # The column may exist without a value in any row.
        given = [{name: value for name, value in row.items() if value is not None} for row in rows]
        lengths = [len(row[column]) - row["prompt_length"] for column in TOKENIZED for row in rows]
        shared = [common_prefix_length(*(row[column] for column in TOKENIZED)) - row["prompt_length"] for row in rows]
        return dict(self.collator(given)) | {
            "prompt_length": torch.tensor([row["prompt_length"] for row in rows]),
            "response_length": torch.tensor(lengths),
            "shared_length": torch.tensor(shared),
        }


def check_collator(collator: PrefixCollator, rows: Sequence[dict[str, Any]]) -> None:
    """Refuses a data collator whose batches the loss cannot read.

    Args:
        collator: The collator to try.
        rows: A few rows to try it on.

    Raises:
        ValueError: If its batches are not those of TRL's reward trainer: pairs as rows of `input_ids` and
            `attention_mask`, chosen rows first, padded on the right.
    """
    sequences = [row[column] for column in TOKENIZED for row in rows]
    try:
        batch = collator(list(rows))
        ids = [row[: len(sequence)] for row, sequence in zip(batch["input_ids"].tolist(), sequences, strict=True)]
        lengths = batch["attention_mask"].sum(1).tolist()
    except Exception as error:
        raise ValueError(
            f"The `data_collator` made no batch of pairs ({type(error).__name__}: {error}). It must accept rows with "
            "`chosen_ids` and `rejected_ids` and return `input_ids` and `attention_mask` of all of them, as TRL's "
            "DataCollatorForPreference does."
        ) from error
    if ids != sequences or lengths != [len(sequence) for sequence in sequences]:
        raise ValueError(
            "The `data_collator` changes or moves tokens. Its `input_ids` must hold the `chosen_ids` of all rows and "
            "then their `rejected_ids`, padded on the right, as TRL's DataCollatorForPreference makes them."
        )
