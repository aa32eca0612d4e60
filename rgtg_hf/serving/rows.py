"""Increments of rows that come and go one by one, as requests do in a server.

A batch of `generate()` is one thing, found again by its token ids. Here the caller names its rows by numbers from 0
on without gaps, and each keeps the tokens that were read of it, whatever the others do. Reader and cache are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.causal_classifier import check_reward_model, vocabulary_size
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.token_head import token_increments
from rgtg_hf.scoring.choose import probe
from rgtg_hf.scoring.scorer import place_increments
from rgtg_hf.scoring.sibling_reader import SiblingReader

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
        ValueError: If the reward model is of another kind.
        RuntimeError: If this could not be tried, for want of memory for example.
    """
    check_reward_model(reward_model)
    reward_model.eval()
    name = type(reward_model).__name__
    if isinstance(reward_model, NextTokenRewardModel):
        if reward_model.config.policy is not None:
            raise ValueError("This steering head has no backbone of its own, so it cannot score without its policy.")
        return NextTokenRows(reward_model)
    verdict = probe(reward_model, "siblings")
    if not verdict.final:
        raise RuntimeError(
            f"The scorer 'siblings' {verdict.reason} with this {name}: free memory, or use another device, and start "
            "again."
        )
    if not verdict.right:
        raise ValueError(
            f"Rows that come and go need the scorer 'siblings', which for a {name} {verdict.reason}: use a reward "
            "model of the Llama, Qwen, Mistral, Gemma, GPT-2 or GPT-NeoX kind."
        )
    return SiblingRows(reward_model)


class RowScorer(ABC):
    """Scores candidates of rows that the caller names.

    Attributes:
        reader: Reads the rows and holds their caches.
        vocabulary_size: Number of token ids that the reward model can read.
    """

    def __init__(self, reward_model: PreTrainedModel, reader: SiblingReader):
        self.reader = reader
        self.vocabulary_size = vocabulary_size(reward_model)

    @property
    def row_count(self) -> int:
        """How many rows are held."""
        return len(self.reader.rows)

    @abstractmethod
    def score(self, rows: list[int], prefixes: list[list[int]], candidate_ids: Tensor, wanted: Tensor) -> Tensor:
        """Computes r(x, y_<t v) - r(x, y_<t) for each candidate v.

        Args:
            rows: Numbers of the rows, all different; the next free number makes a new row.
            prefixes: The token ids of each.
            candidate_ids: Candidates of each, shape `[rows, k]`.
            wanted: The increments to compute, bool, shape `[rows, k]`. A row without any is not read.

        Returns:
            Increments on the device of `candidate_ids`, 0 where not wanted, float32, shape `[rows, k]`.
        """

    def forget(self, row: int) -> int:
        """Forgets a row. The last one takes its number. When no row is left, the memory is freed.

        Returns:
            The number that the row in this place had: the last one.
        """
        last = self.row_count - 1
        self.reader.replace_row(last, row)
        return last

    def _read_prompts(self, rows: list[int], prefixes: list[list[int]], needed: list[bool]) -> None:
        """Reads the rows that are needed and of which nothing is held yet, in batches of similar lengths."""
        fresh = [
            (len(prefix), row, prefix)
            for row, prefix, one in zip(rows, prefixes, needed, strict=True)
            if one and (row >= self.row_count or not self.reader.rows[row].prefix.tokens)
        ]
        for batch in _batches(sorted(fresh)):
            _, some, own = zip(*batch, strict=True)
            self.reader.read_rows(list(some), list(own), [[[]] for _ in some])


class SiblingRows(RowScorer):
    """Candidates as siblings, as in [`SiblingScorer`][rgtg_hf.scoring.siblings.SiblingScorer]: k tokens per step."""

    def __init__(self, reward_model: PreTrainedModel):
        super().__init__(reward_model, SiblingReader(reward_model))

    def score(self, rows: list[int], prefixes: list[list[int]], candidate_ids: Tensor, wanted: Tensor) -> Tensor:
        """Computes increments; see `RowScorer.score`."""
        columns = [[column for column, one in enumerate(own) if one] for own in wanted.tolist()]
        self._read_prompts(rows, prefixes, list(map(bool, columns)))
        continuations = [
            [[], *([ids[column]] for column in own)] if own else []
            for ids, own in zip(candidate_ids.tolist(), columns, strict=True)
        ]
        return place_increments(self.reader.read_rows(rows, prefixes, continuations), columns, candidate_ids)


class NextTokenRows(RowScorer):
    """All candidates from one token, as in `NextTokenScorer`."""

    def __init__(self, reward_model: NextTokenRewardModel):
        super().__init__(reward_model, _DirectionReader(reward_model))
        self.embeddings = reward_model.token_embeddings

    def score(self, rows: list[int], prefixes: list[list[int]], candidate_ids: Tensor, wanted: Tensor) -> Tensor:
        """Computes increments; see `RowScorer.score`."""
        needed = wanted.any(-1).tolist()
        self._read_prompts(rows, prefixes, needed)
        found = self.reader.read_rows(rows, prefixes, [[[]] if one else [] for one in needed])
        nothing = torch.zeros(self.embeddings.shape[1], device=self.embeddings.device)
        directions = torch.stack([own[0] if own else nothing for own in found])
        increments = token_increments(directions, candidate_ids.to(directions.device), self.embeddings)
        return increments.to(candidate_ids.device).masked_fill(~wanted, 0.0)


class _DirectionReader(SiblingReader):
    """Keeps, for the last token read of each row, the direction of the next token's increments."""

    def __init__(self, reward_model: NextTokenRewardModel):
        super().__init__(reward_model)
        self.score = reward_model.score

    def read_rows(
        self, rows: list[int], prefixes: list[list[int]], continuations: list[list[list[int]]]
    ) -> list[list[Any]]:
        found = super().read_rows(rows, prefixes, continuations)
        for row, own in zip(rows, found, strict=True):
            if own:  # a copy of the last, so that the hidden states of all the others can be freed
                kept = self.rows[row].prefix.rewards
                kept[:] = [None] * (len(kept) - 1) + [own[0].clone()]
        return found

    def _values(self, hidden: Tensor) -> list[list[Any]]:
        return [list(row) for row in self.score.directions(hidden)]


def cache_bytes_per_token(reward_model: PreTrainedModel) -> int:
    """The bytes that one token of one row takes in the reward model's cache: keys and values of all layers."""
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
