"""Trains heads on hidden states that a frozen backbone has computed once, for all epochs and runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.pairs import TOKENIZED
from rgtg_hf.training.advantage_config import AdvantageConfig
from rgtg_hf.training.data import PrefixCollator
from rgtg_hf.training.hidden_state_store import HiddenStateStore, Response
from rgtg_hf.training.prefix_reward_config import PrefixRewardConfig

__all__ = ["LOOKED_AT", "HiddenStateCollator", "center_head", "keep_hidden_states", "states_directory"]

LOOKED_AT = 500  # rows of training that tell what hidden states are like


class HiddenStateCollator:
    """Makes batches that hold their hidden states, so that the backbone need not run.

    Only the last token of each prompt is kept, since the rewards of its earlier prefixes are the same for both
    responses. So `prompt_length` is 1.

    Args:
        store: Holds the hidden states.
        collator: Makes everything else.
    """

    def __init__(self, store: HiddenStateStore, collator: PrefixCollator) -> None:
        self.store = store
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Adds `hidden_states` of shape `[2B, S, hidden_size]` to the collator's batch, zero where none is needed."""
        short = [
            {**row, **{column: row[column][row["prompt_length"] - 1 :] for column in TOKENIZED}, "prompt_length": 1}
            for row in rows
        ]
        batch = self.collator(short)
        hidden = torch.zeros(*batch["input_ids"].shape, self.store.hidden_size, dtype=self.store.dtype)
        sequences = [(row[column], row["prompt_length"]) for column in TOKENIZED for row in rows]
        for target, (ids, prompt_length) in zip(hidden, sequences, strict=True):
            known = self.store.read(ids, prompt_length)
            target[: len(known)] = known
        return batch | {"hidden_states": hidden}


def keep_hidden_states(
    model: NextTokenRewardModel, datasets: Sequence[Any], args: PrefixRewardConfig, collator: PrefixCollator
) -> HiddenStateCollator:
    """Computes the hidden states of all responses that are not on disk yet.

    Args:
        model: A model whose backbone is frozen.
        datasets: Prepared training and evaluation sets, or `None` for a missing one.
        args: Gives the folder, the batch size of evaluation, and whether progress is shown.
        collator: Makes the rest of a batch.

    Returns:
        A collator whose batches carry hidden states.
    """
    rows = itertools.chain.from_iterable(dataset for dataset in datasets if dataset is not None)
    responses = ((row[column], row["prompt_length"]) for row in rows for column in TOKENIZED)
    with args.main_process_first(desc="computing hidden states"):
        store = HiddenStateStore(states_directory(args), model)
        store.add(responses, args.per_device_eval_batch_size, progress=not args.disable_tqdm)
    some = itertools.islice(datasets[0], LOOKED_AT)
    center_head(model, store, ((row[column], row["prompt_length"]) for row in some for column in TOKENIZED))
    return HiddenStateCollator(store, collator)


def states_directory(args: PrefixRewardConfig | AdvantageConfig) -> Path:
    """The folder of the hidden states of a run."""
    # What begins with an underscore is not uploaded by the Trainer.
    return Path(args.hidden_states_dir or Path(args.output_dir or ".", "_hidden_states"))


def center_head(model: NextTokenRewardModel, store: HiddenStateStore, responses: Iterable[Response]) -> None:
    """Tells a fresh linear head what hidden states are like.

    Args:
        model: The model of the head.
        store: Holds the hidden states of the responses.
        responses: Some of those of training.
    """
    if model.score.is_linear:
        model.score.center(torch.cat([store.read(*response) for response in responses]))
