"""Rows of advantage training: responses with their rewards, compared with others to the same prompt, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rgtg_hf.training.hidden_state_store import HiddenStateStore
from rgtg_hf.training.surplus import rollout_surpluses
from rgtg_hf.training.value_rows import located_rollouts

__all__ = ["AdvantageCollator", "compared_rollouts"]


def compared_rollouts(
    dataset: Dataset, name: str, tokenizer: PreTrainedTokenizerBase, max_length: int | None, max_weight: float
) -> tuple[Dataset, int]:
    """Tokenizes a data set of rated responses, and compares each with the others to its prompt.

    Args:
        dataset: Rows of [`rollout_ids`][rgtg_hf.training.value_rows.rollout_ids].
        name: The data set's name, for errors.
        tokenizer: The policy's tokenizer.
        max_length: Longer rows, in tokens, are dropped. `None` for no limit.
        max_weight: The largest importance weight of a response of a guided policy, in the mean of the others.

    Returns:
        The data set with `input_ids`, `prompt_length` and `surplus`, and how many rows were dropped: too long, or the
        only response to their prompt.

    Raises:
        ValueError: If there are no rows, one cannot be used, no prompt has two responses, or none differ in reward.
    """
    rows, _ = located_rollouts(dataset, name, tokenizer, max_length)
    found = rollout_surpluses(rows, max_weight)
    kept = [place for place, surplus in enumerate(found) if surplus is not None]
    if not kept:
        raise ValueError(
            f"No prompt of the {name} data set has two responses. A response is compared with the others to its "
            "prompt: let the policy write several (`rgtg-hf rollouts --num_responses 12`)."
        )
    if not any(found[place] for place in kept):
        raise ValueError(
            f"All responses to one prompt have equal rewards in the {name} data set, so there is nothing to learn."
        )
    columns = ["input_ids", "prompt_length"]
    compared = rows.select_columns(columns).add_column("surplus", found)
    return compared.select(kept), len(dataset) - len(kept)


class AdvantageCollator:
    """Makes batches that hold the policy's hidden states and candidates, so that it need not run.

    Of each prompt only the last token is kept.

    Args:
        store: Holds hidden states and candidates.
        unit: A surplus of 1: the standard deviation of those of the training rows.
    """

    def __init__(self, store: HiddenStateStore, unit: float) -> None:
        self.store = store
        self.unit = unit

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collates rows of [`compared_rollouts`].

        Returns:
            `input_ids` and `attention_mask`, shape `[batch, length]`, padded on the right; `hidden_states` of shape
            `[batch, length, hidden_size]`; `candidates`, two tensors of shape `[batch, length, top_k]`; and
            `surpluses` in units, shape `[batch]`.
        """
        store = self.store
        lengths = torch.tensor([len(row["input_ids"]) - row["prompt_length"] + 1 for row in rows])
        shape = (len(rows), int(lengths.max()))
        input_ids = torch.zeros(shape, dtype=torch.long)
        hidden = torch.zeros(*shape, store.hidden_size, dtype=store.dtype)
        candidates = torch.zeros(*shape, store.top_k, dtype=torch.long)
        probabilities = torch.zeros(*shape, store.top_k)
        for place, row in enumerate(rows):
            ids, prompt_length = row["input_ids"], row["prompt_length"]
            input_ids[place, : lengths[place]] = torch.tensor(ids[prompt_length - 1 :])
            steps = slice(0, len(ids) - prompt_length)
            hidden[place, steps] = store.read(ids, prompt_length)
            candidates[place, steps], probabilities[place, steps] = store.read_candidates(ids, prompt_length)
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(shape[1]) < lengths[:, None]).long(),
            "hidden_states": hidden,
            "candidates": (candidates, probabilities),
            "surpluses": torch.tensor([row["surplus"] / self.unit for row in rows]),
        }
