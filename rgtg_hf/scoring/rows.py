"""Rewards of rows that come and go one by one, as requests do in a server.

A batch of `generate()` is one thing, found again by its token ids. Here the caller names its rows by numbers from 0
on without gaps, and each keeps what was read of it, whatever the others do. It is the same reading in the same cache.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.checks import check_reward_model, vocabulary_size
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.token_head import advantages_of
from rgtg_hf.scoring.choose import probe
from rgtg_hf.scoring.scorer import CandidateRewards
from rgtg_hf.scoring.tree_reader import TreeReader

__all__ = ["RowScorer", "cache_bytes_per_token", "make_row_scorer"]

# Prompts that arrive together are read together, but not more tokens than this in one pass (or one prompt).
_PROMPT_TOKENS_PER_PASS = 8192


def make_row_scorer(reward_model: PreTrainedModel) -> RowScorer:
    """Makes the scorer for a reward model.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label whose candidates can be read as
            siblings, or a `NextTokenRewardModel` with a backbone of its own.

    Returns:
        A new scorer without rows.

    Raises:
        ValueError: If the reward model is of no such kind.
    """
    check_reward_model(reward_model)
    reward_model.eval()
    name = type(reward_model).__name__
    if isinstance(reward_model, NextTokenRewardModel):
        if reward_model.config.policy is not None:
            raise ValueError(
                "This steering head has no backbone of its own, so it can rate nothing without its policy."
            )
        return NextTokenRows(reward_model)
    if not probe(reward_model, "tree"):
        raise ValueError(
            f"The candidates of a {name} cannot be read as siblings, which rows that come and go need: use a reward "
            "model of the Llama, Qwen, Mistral, Gemma, GPT-2 or GPT-NeoX kind."
        )
    return SiblingRows(reward_model)


class RowScorer(ABC):
    """Scores candidates of rows that the caller names.

    Attributes:
        reader: What reads the rows and holds their caches.
        vocabulary_size: Number of token ids that the reward model can read.
    """

    def __init__(self, reward_model: PreTrainedModel, reader: TreeReader):
        self.reader = reader
        self.vocabulary_size = vocabulary_size(reward_model)

    @property
    def row_count(self) -> int:
        """How many rows are held."""
        return len(self.reader.rows)

    @abstractmethod
    def score(
        self, rows: list[int], prefixes: list[list[int]], candidate_ids: Tensor, wanted: Tensor
    ) -> CandidateRewards:
        """Scores candidate next tokens.

        Args:
            rows: Numbers of the rows, none twice; the next free number makes a new row.
            prefixes: The token ids of each.
            candidate_ids: Candidates of each, shape `[rows, k]`.
            wanted: Which of their rewards are wanted, shape `[rows, k]`. The others are not looked at.

        Returns:
            The rewards, on the device of `candidate_ids`.
        """

    def forget(self, row: int) -> int:
        """Forgets a row. The last one takes its number; of the last row that goes the memory is freed.

        Returns:
            The number that the row in this place had: the last one.
        """
        last = self.row_count - 1
        self.reader.take_place(last, row)
        return last

    def _read_prompts(self, rows: list[int], prefixes: list[list[int]]) -> None:
        """Reads rows of which nothing is held yet, in batches of alike lengths."""
        fresh = [
            (len(prefix), row, prefix)
            for row, prefix in zip(rows, prefixes, strict=True)
            if row >= self.row_count or not self.reader.rows[row].trunk.tokens
        ]
        for batch in _batches(sorted(fresh)):
            _, some, trunks = zip(*batch, strict=True)
            self.reader.read_rows(list(some), list(trunks), [[[]] for _ in some])


class SiblingRows(RowScorer):
    """Candidates as siblings, see [`TreeScorer`][rgtg_hf.scoring.tree.TreeScorer]: k tokens per row and step."""

    def __init__(self, reward_model: PreTrainedModel):
        super().__init__(reward_model, TreeReader(reward_model))

    def score(
        self, rows: list[int], prefixes: list[list[int]], candidate_ids: Tensor, wanted: Tensor
    ) -> CandidateRewards:
        """Scores candidates; see `RowScorer.score`."""
        self._read_prompts(rows, prefixes)
        asked = wanted.tolist()
        tails = [
            [[id_] for id_, one in zip(ids, own, strict=True) if one]
            for ids, own in zip(candidate_ids.tolist(), asked, strict=True)
        ]
        found = self.reader.read_rows(rows, prefixes, tails)
        rewards, base = [], []
        for row, prefix, own, values in zip(rows, prefixes, asked, found, strict=True):
            each = iter(values)
            rewards.append([next(each) if one else 0.0 for one in own])
            base.append(self.reader.reward_at(row, len(prefix) - 1) if values else 0.0)
        device = candidate_ids.device
        return CandidateRewards(torch.tensor(rewards, device=device), torch.tensor(base, device=device))


class NextTokenRows(RowScorer):
    """All candidates from one token, as `NextTokenScorer` does."""

    def __init__(self, reward_model: NextTokenRewardModel):
        super().__init__(reward_model, _DirectionReader(reward_model))
        self.embeddings = reward_model.token_embeddings

    def score(
        self, rows: list[int], prefixes: list[list[int]], candidate_ids: Tensor, wanted: Tensor
    ) -> CandidateRewards:
        """Scores candidates; see `RowScorer.score`."""
        self._read_prompts(rows, prefixes)
        needed = wanted.any(-1).tolist()
        found = self.reader.read_rows(rows, prefixes, [[[]] if one else [] for one in needed])
        nothing = self.embeddings.new_zeros(self.embeddings.shape[1])
        directions = torch.stack([own[0] if own else nothing for own in found])
        rewards = advantages_of(directions, candidate_ids.to(directions.device), self.embeddings)
        rewards = rewards.float().to(candidate_ids.device)
        return CandidateRewards(rewards, torch.zeros_like(rewards[:, 0]))


class _DirectionReader(TreeReader):
    """Keeps, of the last token read of each row, where the advantages of the next one point."""

    def __init__(self, reward_model: NextTokenRewardModel):
        super().__init__(reward_model)
        self.score = reward_model.score

    def read_rows(self, rows: list[int], trunks: list[list[int]], tails: list[list[list[int]]]) -> list[list[Any]]:
        found = super().read_rows(rows, trunks, tails)
        for row, own in zip(rows, found, strict=True):
            if own:  # a copy of the last, so that the hidden states of all the others are let go
                kept = self.rows[row].trunk.rewards
                kept[:] = [None] * (len(kept) - 1) + [own[0].clone()]
        return found

    def _values(self, hidden: Tensor) -> list[list[Any]]:
        return [list(row) for row in self.score.directions(hidden)]


def cache_bytes_per_token(reward_model: PreTrainedModel) -> int:
    """What one token of one row takes in the reward model's cache: keys and values of all layers."""
    scorer = make_row_scorer(reward_model)
    scorer.reader.read_rows([0], [[0]], [[[]]])
    layers: Sequence[Any] = scorer.reader.cache.layers
    parts = [part for layer in layers for part in (layer.keys, layer.values) if part is not None]
    return sum(part.element_size() * part.shape[2:].numel() for part in parts)


def _batches(fresh: list[tuple[int, int, list[int]]]) -> Iterator[list[tuple[int, int, list[int]]]]:
    """Cuts rows, shortest first, into batches whose padded size is bounded."""
    batch: list[tuple[int, int, list[int]]] = []
    for entry in fresh:
        if batch and entry[0] * (len(batch) + 1) > _PROMPT_TOKENS_PER_PASS:
            yield batch
            batch = []
        batch.append(entry)
    if batch:
        yield batch
