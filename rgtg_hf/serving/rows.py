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
from rgtg_hf.rewards.parts import find_score_head
from rgtg_hf.rewards.token_head import token_increments
from rgtg_hf.scoring.choose import probe
from rgtg_hf.scoring.row_reader import MOST_TOGETHER, RowReader, padded
from rgtg_hf.scoring.siblings import sibling_increments
from rgtg_hf.scoring.text.sequences import common_length

__all__ = ["NamedRowReader", "RowScorer", "cache_bytes_per_token", "make_row_scorer"]

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


class NamedRowReader(RowReader):
    """Reads rows that the caller names, each of which goes on from what is held of itself.

    Attributes:
        tokens: The token ids that are held of each row.
    """

    def reset(self) -> None:
        """Forgets everything, which frees the memory."""
        super().reset()
        self.tokens: list[list[int]] = []

    # Tensors made in inference mode could not be written to outside of it, in a later call.
    @torch.inference_mode(False)
    @torch.no_grad()
    def read_rows(self, rows: list[int], prefixes: list[list[int]], candidate_ids: Tensor | None = None) -> Tensor:
        """Reads what is missing of some rows, at least their last tokens, and candidates after them.

        Args:
            rows: Numbers of the rows, all different. A row that is not there yet is made.
            prefixes: Their token ids.
            candidate_ids: Candidates of each, shape `[rows, k]`.

        Returns:
            Hidden states of the last token of each row and of its candidates, shape `[rows, 1 + k, hidden]`.
        """
        self.add_rows(max(rows) + 1)
        for row, prefix in zip(rows, prefixes, strict=True):
            # What is read again or behind is written over, and not held any more if that fails.
            del self.tokens[row][min(common_length(self.tokens[row], prefix), len(prefix) - 1) :]
        # Rows that miss much (new ones) go first, in batches of similar lengths, so that the others do not wait.
        long = [
            (len(prefix) - len(self.tokens[row]), row, prefix)
            for row, prefix in zip(rows, prefixes, strict=True)
            if len(prefix) - len(self.tokens[row]) > MOST_TOGETHER
        ]
        for batch in _batches(sorted(long)):
            self._read_earlier_of([row for _, row, _ in batch], [prefix for _, _, prefix in batch])
        device = self.backbone.device
        missing = max(len(prefix) - len(self.tokens[row]) for row, prefix in zip(rows, prefixes, strict=True))
        new = torch.tensor([[0] * (missing - len(one)) + one[-missing:] for one in prefixes], device=device)
        lengths = torch.tensor(list(map(len, prefixes)), device=device)
        width = max(map(len, prefixes)) + 1 + (0 if candidate_ids is None else candidate_ids.shape[1])
        index = None if rows == list(range(len(self.tokens))) else torch.tensor(rows, device=device)
        hidden = self.read_ends(new, lengths, width, candidate_ids, rows=index, row_count=len(self.tokens))
        for row, prefix in zip(rows, prefixes, strict=True):
            self.tokens[row] = list(prefix)
        return hidden

    def add_rows(self, count: int) -> None:
        """Adds rows of which nothing is held, up to so many in all."""
        self.tokens += [[] for _ in range(count - len(self.tokens))]

    def _read_earlier_of(self, rows: list[int], prefixes: list[list[int]]) -> None:
        """Reads rows but for their last tokens."""
        ids, lengths = padded(prefixes, self.backbone.device)
        missing = max(len(prefix) - len(self.tokens[row]) for row, prefix in zip(rows, prefixes, strict=True))
        index = torch.tensor(rows, device=ids.device)
        self.read_earlier(ids, lengths, missing, ids.shape[1] + 1, index, len(self.tokens))
        for row, prefix in zip(rows, prefixes, strict=True):
            self.tokens[row] = prefix[:-1]

    def replace_row(self, source: int, target: int) -> None:
        """Puts the last row in the place of another one, which is forgotten; then there is one row less.

        Args:
            source: The last row. It may be the same as `target`.
            target: The row that is forgotten.
        """
        if source != len(self.tokens) - 1:
            raise ValueError(f"Row {source} is not the last one of {len(self.tokens)}.")
        if source != target:
            self.buffer.copy_row(source, target)
            self.tokens[target] = self.tokens[source]
        del self.tokens[source]
        if not self.tokens:
            self.reset()


class RowScorer(ABC):
    """Scores candidates of rows that the caller names.

    Attributes:
        reader: Reads the rows and holds their caches.
        vocabulary_size: Number of token ids that the reward model can read.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.reader = NamedRowReader(reward_model)
        self.vocabulary_size = vocabulary_size(reward_model)

    @property
    def row_count(self) -> int:
        """How many rows are held."""
        return len(self.reader.tokens)

    @property
    def cache_bytes(self) -> int:
        """The memory of the cache."""
        return sum(part.element_size() * part.numel() for part in self.cache_parts())

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
        self.reader.add_rows(max(rows) + 1)
        needed = [place for place, one in enumerate(wanted.any(-1).tolist()) if one]
        increments = torch.zeros(candidate_ids.shape, device=candidate_ids.device)
        if not needed:
            return increments
        found = self._increments(
            [rows[place] for place in needed],
            [prefixes[place] for place in needed],
            candidate_ids[needed].to(self.reader.backbone.device),
        )
        increments[needed] = found.to(increments)
        return increments.masked_fill(~wanted, 0.0)

    @abstractmethod
    def _increments(self, rows: list[int], prefixes: list[list[int]], candidate_ids: Tensor) -> Tensor:
        """The increments of all candidates, shape `[rows, k]`."""

    def cache_parts(self) -> list[Tensor]:
        """The tensors of the cache, each of shape `[rows, heads, columns, size]`."""
        layers: Sequence[Any] = self.reader.buffer.layers
        return [part for layer in layers for part in (layer.keys, layer.values) if part is not None]

    def forget(self, row: int) -> int:
        """Forgets a row. The last one takes its number. When no row is left, the memory is freed.

        Returns:
            The number that the row in this place had: the last one.
        """
        last = self.row_count - 1
        self.reader.replace_row(last, row)
        return last


class SiblingRows(RowScorer):
    """Candidates as siblings, as in [`SiblingScorer`][rgtg_hf.scoring.siblings.SiblingScorer]: k + 1 tokens a step."""

    def __init__(self, reward_model: PreTrainedModel):
        super().__init__(reward_model)
        self.head = find_score_head(reward_model)

    def _increments(self, rows: list[int], prefixes: list[list[int]], candidate_ids: Tensor) -> Tensor:
        return sibling_increments(self.head, self.reader.read_rows(rows, prefixes, candidate_ids))


class NextTokenRows(RowScorer):
    """All candidates from one token, as in `NextTokenScorer`."""

    def __init__(self, reward_model: NextTokenRewardModel):
        super().__init__(reward_model)
        self.score_head, self.embeddings = reward_model.score, reward_model.token_embeddings

    def _increments(self, rows: list[int], prefixes: list[list[int]], candidate_ids: Tensor) -> Tensor:
        hidden = self.reader.read_rows(rows, prefixes)[:, 0]
        return token_increments(self.score_head.directions(hidden), candidate_ids, self.embeddings)


def cache_bytes_per_token(reward_model: PreTrainedModel) -> int:
    """The bytes that one token of one row takes in the reward model's cache: keys and values of all layers."""
    scorer = make_row_scorer(reward_model)
    scorer.reader.read_rows([0], [[0]])
    return sum(part.element_size() * part.shape[2:].numel() for part in scorer.cache_parts())


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
