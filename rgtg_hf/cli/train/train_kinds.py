"""The three kinds of training, `train`, `train-values` and `train-head`, and how they differ."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rgtg_hf.cli.train.train_help import HEAD_OPTIONS, OPTIONS, VALUE_OPTIONS, Shown

__all__ = ["HEADS", "REWARDS", "VALUES", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Attributes:
        command: The name of the command.
        product: The model that it makes.
        columns: The columns that rows need.
        strength: The options of a first try of the model.
        summary: The sentence of the help.
        example: The options of the example of the help, after the model.
        options: The options of the help.
        config: The module and the name of the settings.
        trainer: The module and the name of the trainer.
        figures: The name of the columns of the table.
        trains_layers: Whether layers are trained, which can be in an adapter or below it in four bits.
    """

    command: str
    product: str
    columns: tuple[str, ...]
    strength: tuple[str, ...]
    summary: str
    example: str
    options: dict[str, list[Shown]]
    config: tuple[str, str]
    trainer: tuple[str, str]
    figures: str
    trains_layers: bool = True

    def classes(self) -> tuple[Any, Any, Any]:
        """The settings, the trainer, and the columns of its table. TRL is loaded now."""
        table = ("rgtg_hf.cli.train.train_table", self.figures)
        config, trainer, columns = (
            getattr(import_module(module), name) for module, name in (self.config, self.trainer, table)
        )
        return config, trainer, columns


REWARDS = Kind(
    "train",
    "reward model",
    ("chosen", "rejected"),
    ("--beta", "2"),
    "Train a prefix reward model. The options are those of `trl reward` and a few more.",
    "--num_layers 10 \\\n      --dataset_name pairs.jsonl --output_dir reward_model",
    OPTIONS,
    ("rgtg_hf.training.prefix_reward_config", "PrefixRewardConfig"),
    ("rgtg_hf.training.trainer", "PrefixRewardTrainer"),
    "OF_REWARDS",
)
VALUES = Kind(
    "train-values",
    "value model",
    ("prompt", "completion", "reward"),
    (),
    "Train a prefix value model on rated responses. The options are those of `trl reward` and a few more.",
    "--num_layers 10 \\\n      --dataset_name rollouts.jsonl --output_dir value_model",
    VALUE_OPTIONS,
    ("rgtg_hf.training.value_config", "PrefixValueConfig"),
    ("rgtg_hf.training.value_trainer", "PrefixValueTrainer"),
    "OF_VALUES",
)
HEADS = Kind(
    "train-head",
    "steering head",
    ("prompt", "completion", "reward"),
    (),
    "Train a steering head on rated responses of a policy. The options are those of `trl reward` and a few more.",
    "\\\n      --dataset_name rollouts.jsonl --output_dir my_head",
    HEAD_OPTIONS,
    ("rgtg_hf.training.advantage_config", "AdvantageConfig"),
    ("rgtg_hf.training.advantage_trainer", "AdvantageTrainer"),
    "OF_ADVANTAGES",
    trains_layers=False,
)
