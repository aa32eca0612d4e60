"""What prefix training refuses, before it starts: one clear sentence for each kind of input it cannot use."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from rgtg_hf.training.data import TEXT, TOKENIZED

__all__ = ["check_datasets", "check_head", "check_lora", "check_rows", "check_tokenizer", "check_types"]


def check_types(model: Any, tokenizer: Any, train_dataset: Any, eval_dataset: Any) -> None:
    """Refuses arguments of the trainer that are of another type.

    Raises:
        TypeError: If there is one.
    """
    if not isinstance(model, str) and not (isinstance(model, nn.Module) and hasattr(model, "config")):
        raise TypeError(f"`model` is a {type(model).__name__}, but a pretrained model or the name of one is required.")
    if not isinstance(tokenizer, (PreTrainedTokenizerBase, type(None))):
        raise TypeError(f"`processing_class` is a {type(tokenizer).__name__}, but a loaded tokenizer is required.")
    for name, given in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
        for one in given.values() if isinstance(given, dict) else [given]:
            if not isinstance(one, (Dataset, IterableDataset, type(None))):
                raise TypeError(
                    f"`{name}` is or holds a {type(one).__name__}, but a Dataset is required: make one of rows by "
                    "`Dataset.from_list(rows)`."
                )


def check_datasets(kind: str, dataset: Any) -> Any:
    """Calls [`check_rows`] on a data set, or on each of a dictionary of them, and returns what it returns."""
    if isinstance(dataset, dict):
        return {key: check_rows(value, f"{kind} ({key})") for key, value in dataset.items()}
    return dataset if dataset is None or isinstance(dataset, str) else check_rows(dataset, kind)


def check_rows(dataset: Dataset | IterableDataset, name: str) -> Dataset | IterableDataset:
    """Refuses a data set that reward training cannot use, before anything is tokenized.

    Args:
        dataset: Preference rows in one of TRL's forms. Of a stream only the first row is looked at now.
        name: What to call the data set in the error.

    Returns:
        The data set; a stream checks its further rows as they are read.

    Raises:
        ValueError: If the data set is empty, has rows without `chosen` and `rejected`, or mixes text with messages.
    """
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"The {name} data set is empty. It needs at least one row with `chosen` and `rejected`.")
    columns: tuple[str, ...] = TOKENIZED if all(first.get(column) for column in TOKENIZED) else TEXT
    if any(first.get(column) is None for column in columns):
        raise ValueError(
            f"The {name} data set has the columns {sorted(first)}; the first row has no `chosen` and `rejected`. Each "
            "row needs both, as text or as a list of messages (or `chosen_ids` and `rejected_ids`, already tokenized)."
        )
    if columns == TEXT and "prompt" in first:
        columns = ("prompt", *TEXT)
    expected = {column: _form(first[column]) for column in columns}
    if columns != TOKENIZED and len(set(expected.values())) > 1:
        found = ", ".join(f"`{column}` is {form}" for column, form in expected.items())
        raise ValueError(
            f"The {name} data set mixes formats: {found}. Prompt, chosen and rejected must all be text, or all lists "
            "of messages with `role` and `content`."
        )
    if isinstance(dataset, IterableDataset):
        return dataset.map(_checked, with_indices=True, fn_kwargs={"expected": expected, "name": name})
    number = 0
    for batch in dataset.select_columns(list(columns)).iter(batch_size=1000):
        size = len(batch[columns[0]])
        for offset in range(size):
            _checked({column: batch[column][offset] for column in columns}, number + offset, expected, name)
        number += size
    return dataset


def _checked(row: dict[str, Any], number: int, expected: dict[str, str], name: str) -> dict[str, Any]:
    for column, form in expected.items():
        if _form(row.get(column)) != form:
            raise ValueError(
                f"Row {number} of the {name} data set has no usable `{column}`: it is {_form(row.get(column))}, and "
                f"the first row's is {form}. Remove such rows or repair them."
            )
    return row


def _form(value: object) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "a list of messages" if value and isinstance(value[0], dict) else "a list of token ids"
    return "missing" if value is None else f"of type {type(value).__name__}"


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, eos_token: str | None) -> None:
    """Refuses a tokenizer that can neither end a response nor fill up a batch.

    Args:
        tokenizer: The tokenizer of a causal model.
        eos_token: The end-of-sequence token that the settings name, if they do.

    Raises:
        ValueError: If there is no end-of-sequence token.
    """
    if tokenizer.eos_token is None and eos_token is None:
        raise ValueError(
            "The tokenizer has no end-of-sequence token, so a finished response cannot be told from a prefix"
            + (", and no padding token either" if tokenizer.pad_token is None else "")
            + ". Set `eos_token` in PrefixRewardConfig (`--eos_token` on the command line) to the token at which "
            "generation stops."
        )


def check_lora(peft_config: Any) -> None:
    """PEFT freezes a fresh score head, and leaves it out of the checkpoint, unless it is told about it.

    Raises:
        ValueError: If `peft_config` would leave the head untrained.
    """
    if peft_config is None:
        return
    task_type = getattr(peft_config.task_type, "value", peft_config.task_type)
    saved = set(getattr(peft_config, "modules_to_save", None) or [])
    if task_type != "SEQ_CLS" and not saved & {"score", "classifier"}:
        raise ValueError(
            f"The PEFT configuration has task_type={task_type!r}, which would leave the score head at random values, "
            'untrained and unsaved. Set `task_type="SEQ_CLS"` (`--lora_task_type SEQ_CLS` on the command line).'
        )


def check_head(model: nn.Module) -> None:
    """Refuses a model whose score head cannot learn.

    Raises:
        ValueError: If no parameter of the head takes gradients.
    """
    heads = ("score", "classifier")
    parameters = [p for name, p in model.named_parameters() if any(head in name.split(".") for head in heads)]
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        raise ValueError(
            "The model's score head is frozen, so no reward can be learned. For a PEFT model, make its configuration "
            'with `task_type="SEQ_CLS"`; otherwise set `requires_grad` on the head\'s parameters.'
        )
