"""Checks of the trainer's arguments: one clear sentence for each input that training cannot use."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from rgtg_hf.rewards.load import HEADS
from rgtg_hf.rewards.preference_rows import check_rows
from rgtg_hf.rewards.sequence_classifiers import has_trained_head

__all__ = ["check_datasets", "check_head", "check_lora", "check_tokenizer", "check_types"]


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


def check_datasets(kind: str, dataset: Any, vocabulary_size: int | None) -> Any:
    """Checks a data set, or each of a dictionary of them, with [`check_rows`], and returns what it returns."""
    if isinstance(dataset, dict):
        return {key: check_rows(value, f"{kind} ({key})", vocabulary_size) for key, value in dataset.items()}
    return dataset if dataset is None or isinstance(dataset, str) else check_rows(dataset, kind, vocabulary_size)


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


def check_lora(peft_config: Any, model: Any) -> None:
    """Refuses a PEFT configuration that cannot train or save a reward model.

    PEFT freezes a fresh score head, and leaves it out of the checkpoint, unless it is told about it. A head that the
    checkpoint brought may stay as it is.

    Args:
        peft_config: The configuration, or `None`.
        model: The loaded model that it is for.

    Raises:
        ValueError: If the task type is of another kind of model, or a fresh head would not be trained and saved.
    """
    if peft_config is None:
        return
    task_type = getattr(peft_config.task_type, "value", peft_config.task_type)
    if task_type not in ("SEQ_CLS", None):
        raise ValueError(
            f"The PEFT configuration has task_type={task_type!r}, but a reward model is a sequence classifier. Set "
            '`task_type="SEQ_CLS"` (`--lora_task_type SEQ_CLS` on the command line), which trains and saves the score '
            "head too."
        )
    saved = set(getattr(peft_config, "modules_to_save", None) or [])
    if task_type is None and not saved & set(HEADS) and not has_trained_head(model.config):
        raise ValueError(
            "The score head is fresh, and the PEFT configuration does not save it, so nobody could load what was "
            'trained. Add `task_type="SEQ_CLS"` or `modules_to_save=["score"]` to the configuration.'
        )


def check_head(model: Any) -> None:
    """Refuses a model whose score head is fresh and cannot learn.

    Raises:
        ValueError: If no parameter of the head takes gradients, and the head did not come with a checkpoint.
    """
    parameters = [p for name, p in model.named_parameters() if any(head in name.split(".") for head in HEADS)]
    if (
        parameters
        and not has_trained_head(model.config)
        and not any(parameter.requires_grad for parameter in parameters)
    ):
        raise ValueError(
            "The model's score head is fresh and frozen, so it would stay at random values. For a PEFT model, make "
            'its configuration with `task_type="SEQ_CLS"`; otherwise set `requires_grad` on the head\'s parameters.'
        )
