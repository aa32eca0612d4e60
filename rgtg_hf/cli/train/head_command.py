"""`rgtg-hf train-head`: rated responses in, a steering head out."""

from __future__ import annotations

from collections.abc import Sequence

from rgtg_hf.cli.train.train_command import run_training
from rgtg_hf.cli.train.train_kinds import HEADS

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Trains a steering head and saves it.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong; nothing has been written then.
    """
    run_training(arguments, HEADS)
