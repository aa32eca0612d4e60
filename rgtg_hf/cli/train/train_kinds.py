"""The two kinds of training, `train` and `train-values`, and how they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rgtg_hf.cli.train.train_help import OPTIONS, VALUE_OPTIONS, Shown

__all__ = ["REWARDS", "VALUES", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Attributes:
        command: The name of the command.
        product: The model that it makes.
        columns: The columns that rows need.
        strength: The options of a first try of the model.
        summary: The sentence of the help.
        example: The data of the example of the help.
        options: The options of the help.
    """

    command: str
    product: str
    columns: tuple[str, ...]
    strength: tuple[str, ...]
    summary: str
    example: str
    options: dict[str, list[Shown]]

    def classes(self) -> tuple[Any, Any, Any]:
        """The settings, the trainer, and the columns of its table. TRL is loaded now."""
        from rgtg_hf.cli.train.train_table import OF_REWARDS, OF_VALUES

        if self.command == "train":
            from rgtg_hf.training.prefix_reward_config import PrefixRewardConfig
            from rgtg_hf.training.trainer import PrefixRewardTrainer

            return PrefixRewardConfig, PrefixRewardTrainer, OF_REWARDS
        from rgtg_hf.training.value_config import PrefixValueConfig
        from rgtg_hf.training.value_trainer import PrefixValueTrainer

        return PrefixValueConfig, PrefixValueTrainer, OF_VALUES


REWARDS = Kind(
    "train",
    "reward model",
    ("chosen", "rejected"),
    ("--beta", "2"),
    "Train a prefix reward model. The options are those of `trl reward` and a few more.",
    "pairs.jsonl --output_dir reward_model",
    OPTIONS,
)
VALUES = Kind(
    "train-values",
    "value model",
    ("completion", "reward"),
    (),
    "Train a prefix value model on rated responses. The options are those of `trl reward` and a few more.",
    "rollouts.jsonl --output_dir value_model",
    VALUE_OPTIONS,
)
