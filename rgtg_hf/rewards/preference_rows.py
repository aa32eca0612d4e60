"""Checks preference rows before anything is tokenized: every column that is used, in every row."""

from __future__ import annotations

import json
import math
import warnings
from numbers import Integral, Real
from typing import Any

from datasets import Dataset, IterableDataset

from rgtg_hf.rewards.pairs import TEXT, TOKENIZED

__all__ = ["check_rows"]

_OLD_NAMES = {"chosen_input_ids": "chosen_ids", "rejected_input_ids": "rejected_ids"}
_WORDS = ("text", "a list of messages")
_IDS = ("a list of token ids",)
# The forms in which each column can be used. All rows must have the columns that the first row has.
_FORMS: dict[str, tuple[str, ...]] = {
    "chosen": _WORDS,
    "rejected": _WORDS,
    "prompt": _WORDS,
    "chosen_ids": _IDS,
    "rejected_ids": _IDS,
    "prompt_ids": _IDS,
    "prompt_length": ("a whole number",),
    "margin": ("a whole number", "a negative whole number", "a number"),
    "chat_template_kwargs": ("a dictionary",),
}
_SHOWN = 3  # rows of one fault that an error names
_OPTIONAL = ("prompt", "prompt_ids", "prompt_length", "margin", "chat_template_kwargs")


def check_rows(
    dataset: Dataset | IterableDataset, name: str, vocabulary_size: int | None = None
) -> Dataset | IterableDataset:
    """Refuses a data set that cannot be read as preference pairs, and names the row.

    Args:
        dataset: Preference rows in one of TRL's forms. `chosen_input_ids` and `rejected_input_ids`, the older names of
            `chosen_ids` and `rejected_ids`, are renamed, with TRL's warning.
        name: The data set's name in the error.
        vocabulary_size: Number of token ids that the model knows, if it is known already.

    Returns:
        The data set. A stream, of which only the first row is looked at now, checks further rows as they are read.

    Raises:
        ValueError: If the data set is empty, has rows without `chosen` and `rejected`, or mixes text with messages; or
            if a value of `margin`, `prompt_length`, `tools` or another column is missing or cannot be used.

    Example:
        ```python
        from datasets import Dataset
        from rgtg_hf.rewards.preference_rows import check_rows

        check_rows(Dataset.from_list([{"prompt": "Why?", "chosen": "So.", "rejected": "No."}]), "training")
        ```
    """
    dataset = dataset.with_format(None)
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"The {name} data set is empty. It needs at least one row with `chosen` and `rejected`.")
    if set(_OLD_NAMES) <= first.keys() and not set(TOKENIZED) & first.keys():
        warnings.warn(
            f"The {name} data set names its tokens `chosen_input_ids` and `rejected_input_ids`, which is deprecated. "
            "Name them `chosen_ids` and `rejected_ids`.",
            FutureWarning,
            stacklevel=2,
        )
        dataset = dataset.rename_columns(_OLD_NAMES)
        first = {_OLD_NAMES.get(column, column): value for column, value in first.items()}
    columns: tuple[str, ...] = TOKENIZED if all(first.get(column) is not None for column in TOKENIZED) else TEXT
    if any(first.get(column) is None for column in columns):
        raise ValueError(
            f"The {name} data set has the columns {sorted(first)}; the first row has no `chosen` and `rejected`. Each "
            "row needs both, as text or as a list of messages (or `chosen_ids` and `rejected_ids`, already tokenized)."
        )
    expected = {column: _form(first.get(column)) for column in (*columns, *_OPTIONAL)}
    forms = {column: expected[column] for column in ("prompt", *columns) if expected[column] in _WORDS}
    if columns == TEXT and len(set(forms.values())) > 1:
        found = ", ".join(f"`{column}` is {form}" for column, form in forms.items())
        raise ValueError(
            f"The {name} data set mixes formats: {found}. Prompt, chosen and rejected must all be text, or all lists "
            "of messages with `role` and `content`."
        )
    arguments: Any = {"expected": expected, "name": name, "vocabulary_size": vocabulary_size}
    if isinstance(dataset, IterableDataset):
        return dataset.map(_checked, with_indices=True, fn_kwargs=arguments)
    used = [column for column in (*expected, "tools") if column in dataset.column_names]
    bad: dict[tuple[str, str], list[int]] = {}
    number = 0
    for batch in dataset.select_columns(used).iter(batch_size=1000):
        for values in zip(*(batch[column] for column in used), strict=True):
            number += 1
            fault = _fault_of_row(dict(zip(used, values, strict=True)), expected, vocabulary_size)
            if fault is not None:
                bad.setdefault(fault, []).append(number)
    if bad:
        raise _bad_rows(name, *next(iter(bad.items())))
    return dataset


def _bad_rows(name: str, found: tuple[str, str], numbers: list[int]) -> ValueError:
    """The error of rows with one fault: the first few of them, counted from 1, and how many more there are."""
    column, fault = found
    shown = [str(number) for number in numbers[:_SHOWN]]
    if len(numbers) > _SHOWN:
        shown.append(f"{len(numbers) - _SHOWN} more")
    *others, last = shown
    rows, have = (f"Rows {', '.join(others)} and {last}", "have") if others else (f"Row {last}", "has")
    return ValueError(f"{rows} of the {name} data set {have} no usable `{column}`: {fault}.")


def _checked(
    row: dict[str, Any], number: int, expected: dict[str, str], name: str, vocabulary_size: int | None
) -> dict[str, Any]:
    found = _fault_of_row(row, expected, vocabulary_size)
    if found is not None:
        raise _bad_rows(name, found, [number + 1])
    return row


def _fault_of_row(
    row: dict[str, Any], expected: dict[str, str], vocabulary_size: int | None
) -> tuple[str, str] | None:
    """The first column that cannot be used, and why; None if the row can be used."""
    for column, first in expected.items():
        fault = _fault(column, _form(row.get(column)), first)
        if fault is None and column in TOKENIZED:
            fault = _fault_of_ids(row[column], row.get("prompt_length") or 0, vocabulary_size)
        if fault is not None:
            return column, fault
    if isinstance(row.get("tools"), str):
        try:
            json.loads(row["tools"])
        except ValueError as error:
            return "tools", f"it is text, but not JSON ({error})"
    return None


def _fault(column: str, found: str, first: str) -> str | None:
    """Why a value of the form `found` cannot be used, if the first row's is of the form `first`; None if it can."""
    allowed = _FORMS[column]
    if first == "missing":
        return None if found == first else f"it is {found}, and the first row has none. Give one in every row or none"
    if found not in allowed:
        required = "a number" if "a number" in allowed else " or ".join(allowed)
        return f"it is {found}, but {required} is required in every row. Remove such rows or repair them"
    if allowed == _WORDS and found != first:
        return f"it is {found}, and the first row's is {first}. Remove such rows or repair them"
    return None


def _fault_of_ids(ids: list[int], prompt_length: int, vocabulary_size: int | None) -> str | None:
    if len(ids) < prompt_length:
        return f"it has {len(ids)} tokens, but `prompt_length` is {prompt_length}"
    if vocabulary_size is not None and max(ids) >= vocabulary_size:
        return (
            f"it has the id {max(ids)}, but the model knows 0 to {vocabulary_size - 1}. Use the model's own tokenizer"
        )
    return None


def _form(value: object) -> str:
    """The form of a value, in words."""
    if value is None:
        return "missing"
    if isinstance(value, str):
        return "text"
    if isinstance(value, dict):
        return "a dictionary"
    if isinstance(value, Integral) and not isinstance(value, bool):
        return "a whole number" if int(value) >= 0 else "a negative whole number"
    if isinstance(value, Real) and not isinstance(value, bool):
        return "a number" if math.isfinite(value) else str(value)
    if not isinstance(value, list):
        return f"of type {type(value).__name__}"
    if not value:
        return "an empty list"
    if all(isinstance(item, dict) for item in value):
        with_role = all(isinstance(item.get("role"), str) for item in value)
        return "a list of messages" if with_role else "a list of messages, one of them without `role`"
    if all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in value):
        return "a list of token ids"
    return "a list that holds something else than token ids or messages"
