"""Readers of retokenized text: rewards of sequences that share a beginning, such as one text with several endings.

Retokenized text does not grow by one token per step: a new letter can change the last token or add several, and a
different number in every row. So rows are lists of ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Protocol

import torch
from transformers import PreTrainedModel

from rgtg_hf.rewards.parts import find_score_head
from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.row_reader import RowReader, padded

__all__ = ["SequenceReader", "SiblingReader", "WholeReader", "common_length"]


class SequenceReader(Protocol):
    """Computes rewards of sequences of the reward model's own token ids.

    The fastest one is the [`SiblingReader`][rgtg_hf.scoring.text.sequences.SiblingReader].
    """

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        ...

    def read(self, prefixes: list[list[int]], continuations: list[list[list[int]]]) -> list[list[float]]:
        """Computes the reward at the end of each continuation.

        Args:
            prefixes: The beginning that the sequences of a row share. Rows share beginnings with those of the call
                before.
            continuations: For each row the rest of each sequence; the empty one stands for the prefix itself. Of a row
                without continuations no reward is wanted.

        Returns:
            The rewards, in the shape of `continuations`.
        """
        ...

    def reset(self) -> None:
        """Forgets everything that was kept."""
        ...


class WholeReader:
    """Every sequence as a whole, without a cache: slow, obvious, and right for every causal architecture.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.reference = ReferenceScorer(reward_model)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.reference.tokens_computed

    def read(self, prefixes: list[list[int]], continuations: list[list[list[int]]]) -> list[list[float]]:
        """Computes rewards; see `SequenceReader.read`."""
        return [
            self.reference.rewards([prefix] * len(own), own)
            for prefix, own in zip(prefixes, continuations, strict=True)
        ]

    def reset(self) -> None:
        """Does nothing: nothing is kept."""


class SiblingReader:
    """All continuations in one forward pass, as siblings that share the cached prefix.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label that takes 4-D masks.

    Raises:
        ValueError: If the model has recurrent layers.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.rows = RowReader(reward_model)
        self.head = find_score_head(reward_model)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.rows.tokens_computed

    @torch.no_grad()
    def read(self, prefixes: list[list[int]], continuations: list[list[list[int]]]) -> list[list[float]]:
        """Computes rewards; see `SequenceReader.read`."""
        if not any(continuations):
            return [[] for _ in prefixes]
        tokens: list[list[int]] = []
        starts: list[list[int]] = []
        ends: list[dict[tuple[int, ...], int]] = []  # where each continuation ends; the prefix does at -1
        for own in continuations:
            different = [one for one in dict.fromkeys(map(tuple, own)) if one]
            lasts = list(accumulate(map(len, different)))
            tokens.append(list(chain(*different)))
            starts.append([last - len(one) for one, last in zip(different, lasts, strict=True) for _ in one])
            ends.append({(): -1} | {one: last - 1 for one, last in zip(different, lasts, strict=True)})
        device = self.rows.backbone.device
        ids, lengths = padded(prefixes, device)
        new, counts = padded(tokens, device)
        order = torch.arange(new.shape[1], device=device)
        first = torch.where(order < counts[:, None], padded(starts, device)[0], order)
        ahead = max(len(one) for own in continuations for one in own)
        hidden = self.rows.read(ids, lengths, new, first, ahead=ahead)
        rewards = self.head(hidden)[..., 0].float().tolist()
        return [
            [row[1 + places[tuple(one)]] for one in own]
            for row, places, own in zip(rewards, ends, continuations, strict=True)
        ]

    def reset(self) -> None:
        """Forgets the cache."""
        self.rows.reset()


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences share at the beginning."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # all before `low` are equal, not all before `high`
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low
