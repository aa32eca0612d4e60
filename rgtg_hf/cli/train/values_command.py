"""`rgtg-hf train-values`: rated responses in, a prefix value model out."""

from __future__ import annotations

from collections.abc import Sequence

from rgtg_hf.cli.train.train_command import run_training
from rgtg_hf.cli.train.train_kinds import VALUES

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Trains a value model and saves it.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong; nothing has been written then.
    """
    run_training(arguments, VALUES)
