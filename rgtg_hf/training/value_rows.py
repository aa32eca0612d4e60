"""Rows of value training: a response with its reward, as token ids, and batches of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainingArguments

from rgtg_hf.arguments import shown
from rgtg_hf.rewards.pairs import pair_ids

__all__ = ["ValueCollator", "each_prepared", "located_rollouts", "rewards_of", "rollout_ids"]

logger = logging.getLogger(__name__)


def rollout_ids(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Tokenizes a rated response, and finds where it begins.

    Args:
        row: `prompt`, `completion` and `reward`, as text or as messages. With `prompt_ids` and `completion_ids` these
            are taken. A response that was cut off has `finished` false, and no end token. A response of a guided
            policy has `log_ratios`, one for each token.
        tokenizer: The value model's tokenizer.

    Returns:
        `input_ids`, prompt included; `prompt_length`; `reward`; and `log_ratios`, which may be empty.

    Raises:
        ValueError: If a column is missing or cannot be used.

    Example:
        ```python
        from rgtg_hf.training.value_rows import rollout_ids

        row = {"prompt_ids": [5, 6], "completion_ids": [7], "reward": 1}
        found = rollout_ids(row, tokenizer=None)
        assert found["input_ids"] == [5, 6, 7] and found["prompt_length"] == 2 and found["reward"] == 1.0
        ```
    """
    reward = _usable_reward(row.get("reward"))
    if row.get("prompt_ids") is not None and row.get("completion_ids") is not None:
        prompt, completion = row["prompt_ids"], row["completion_ids"]
        ids, prompt_length = [*prompt, *completion], len(prompt)
    else:
        for column in ("prompt", "completion"):
            if not isinstance(row.get(column), (str, list)) or not row[column]:
                raise ValueError(
                    f"no usable `{column}`: it is {shown(row.get(column))}, but text or messages are required"
                )
        both = dict.fromkeys(("chosen", "rejected"), row["completion"])  # a pair's tokens are found in the same way
        found = pair_ids(row | both, tokenizer)
        ids, prompt_length = found["chosen_ids"], found["prompt_length"]
        if row.get("finished") is False:
            ids = ids[:-1]
    if not 0 < prompt_length < len(ids):
        lacks = "no token of the prompt before the response" if prompt_length < 1 else "an empty response"
        raise ValueError(f"{lacks}: both need at least one token")
    ratios = row.get("log_ratios") or []
    if ratios and len(ratios) != len(ids) - prompt_length:
        raise ValueError(f"{len(ratios)} `log_ratios`, but its response has {len(ids) - prompt_length} tokens")
    return {
        "input_ids": ids,
        "prompt_length": prompt_length,
        "reward": reward,
        "log_ratios": [float(ratio) for ratio in ratios],
    }


def rewards_of(dataset: Dataset, name: str) -> list[float]:
    """The rewards of a data set of rated responses, before anything is tokenized.

    Args:
        dataset: Rows with a `reward`.
        name: The data set's name, for errors.

    Raises:
        ValueError: If there are no rows, or a reward is no finite number. It is named by its row's number, from 1.
    """
    _check_rows(dataset, name)
    rewards = []
    for number, reward in enumerate(dataset["reward"]):
        with _row_named(number, name):
            rewards.append(_usable_reward(reward))
    return rewards


@contextmanager
def _row_named(number: int, name: str) -> Iterator[None]:
    """Adds to an error about a row which one it is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"Row {number + 1} of the {name} data set has {error}.") from error


def _check_rows(dataset: Dataset, name: str) -> None:
    if not len(dataset):
        raise ValueError(f"The {name} data set is empty. It needs rows with `prompt`, `completion` and `reward`.")


def _usable_reward(reward: object) -> float:
    if isinstance(reward, bool) or not isinstance(reward, (int, float)) or not math.isfinite(reward):
        raise ValueError(f"no usable `reward`: it is {shown(reward)}, but a finite number is required")
    return float(reward)


def located_rollouts(
    dataset: Dataset,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    value_range: tuple[float, float] = (-math.inf, math.inf),
    may_be_outside: bool = False,
) -> tuple[Dataset, int]:
    """Tokenizes a data set of rated responses.

    Args:
        dataset: Rows of [`rollout_ids`].
        name: The data set's name, for errors.
        tokenizer: The tokenizer of the model that is trained.
        max_length: Longer rows, in tokens, are dropped. `None` for no limit.
        value_range: The returns of the first and the last bin, between which rewards must be.
        may_be_outside: Whether rewards outside of them are warned of in place of an error, as in an evaluation, whose
            rewards nobody knew when the range was chosen.

    Returns:
        The data set with what [`rollout_ids`] finds, and how many rows were dropped.

    Raises:
        ValueError: If there are no rows, or one cannot be used. It is named by its number, from 1.
    """
    _check_rows(dataset, name)
    low, high = value_range
    slack = 1e-6 * (high - low)  # bins are float32

    def is_outside(reward: float) -> bool:
        return not low - slack <= reward <= high + slack

    def locate(row: dict[str, Any], number: int) -> dict[str, Any]:
        with _row_named(number, name):
            found = rollout_ids(row, tokenizer)
            if not may_be_outside and is_outside(found["reward"]):
                raise ValueError(
                    f"a reward of {found['reward']:g}, but the histogram goes from {low:g} to {high:g}: set "
                    "`value_range` so that it holds all rewards"
                )
        return found

    found = dataset.map(locate, with_indices=True, remove_columns=dataset.column_names, desc="Locating responses")
    kept = found if max_length is None else found.filter(lambda row: len(row["input_ids"]) <= max_length)
    if not len(kept):
        raise ValueError(f"All {len(found)} rows of the {name} data set are longer than `max_length` ({max_length}).")
    if may_be_outside and (outside := sum(map(is_outside, kept["reward"]))):
        logger.warning(
            "%d of the %d rewards of the %s data set are outside of the histogram, which goes from %g to %g. In the "
            "loss the nearest bin stands for them. Other metrics take them as they are.",
            *(outside, len(kept), name, low, high),
        )
    return kept, len(found) - len(kept)


def each_prepared(
    dataset: Any,
    name: str,
    args: TrainingArguments,
    columns: set[str],
    prepare: Callable[[Dataset, str], tuple[Dataset, int]],
    why: str,
) -> Any:
    """Prepares a data set of rated responses, or each of a dictionary of them, in the main process first.

    Args:
        dataset: The data set. One that is prepared stays as it is, and so does what is no data set.
        name: Its name, for errors and warnings.
        args: Settings that know the processes.
        columns: Columns that prepared data sets have.
        prepare: Takes a data set and its name, and returns its rows and how many were dropped.
        why: The reasons for which rows are dropped, for the warning.

    Returns:
        The data set, or a dictionary of them.
    """
    if isinstance(dataset, dict):
        return {
            key: each_prepared(value, f"{name} ({key})", args, columns, prepare, why) for key, value in dataset.items()
        }
    if not isinstance(dataset, Dataset) or columns <= {*dataset.column_names}:
        return dataset
    with args.main_process_first(desc="locating responses"):
        rows, dropped = prepare(dataset, name)
    if dropped:
        logger.warning("Dropped %d rows of the %s data set: %s.", dropped, name, why)
    return rows


class ValueCollator:
    """Makes a batch of rated responses, padded on the right.

    What follows a prefix in a response of the guided policy stands for what the policy would write by its importance
    weight, the product of pi_LM / pi over the tokens that follow.

    Args:
        pad_token_id: The id that fills it up.
        max_weight: The largest importance weight; greater ones, which are rare and noisy, are cut.
    """

    def __init__(self, pad_token_id: int, max_weight: float = 10.0):
        self.pad_token_id, self.max_weight = pad_token_id, max_weight

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collates rows of [`located_rollouts`].

        Returns:
            `input_ids` and `attention_mask`, shape `[batch, length]`; `is_prefix`, bool, same shape, which says where
            prefixes end: at the last token of the prompt, which is the empty one, and at all tokens of the response;
            `weights`, float32, same shape: the importance weight of each prefix, 0 where there is none; and `rewards`,
            shape `[batch]`.
        """
        width = max(len(row["input_ids"]) for row in rows)
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])[:, None]
        first = torch.tensor([row["prompt_length"] - 1 for row in rows])[:, None]
        place = torch.arange(width)
        mask = place < lengths
        is_prefix = mask & (place >= first)
        padded = [[*row["input_ids"], *[self.pad_token_id] * (width - len(row["input_ids"]))] for row in rows]
        return {
            "input_ids": torch.tensor(padded),
            "attention_mask": mask.long(),
            "is_prefix": is_prefix,
            "weights": is_prefix * self._weights(rows, width),
            "rewards": torch.tensor([row["reward"] for row in rows]),
        }

    def _weights(self, rows: Sequence[dict[str, Any]], width: int) -> Tensor:
        """The importance weights of all places, shape `[batch, width]`."""
        logs = torch.zeros(len(rows), width)
        for own, row in zip(logs, rows, strict=True):
            if row["log_ratios"]:
                ratios = torch.tensor(row["log_ratios"])
                start = row["prompt_length"] - 1  # the prompt itself, which all of the response follows
                own[start : start + len(ratios)] = ratios.flip(0).cumsum(0).flip(0)
        return logs.clamp(max=math.log(self.max_weight)).exp()
