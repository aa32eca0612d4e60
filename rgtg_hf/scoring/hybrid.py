"""Candidates of a hybrid model, as rows of a batch that share the keys and values of their prefix.

A recurrent state can be neither shared nor cut, but it is small: every candidate gets a copy of its prefix's. The
state of the chosen candidate is the next prefix's, so a step is one pass over the candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.parts import find_backbone
from rgtg_hf.scoring.expand import ExpandScorer
from rgtg_hf.scoring.hybrid_cache import HybridCache, check_layers
from rgtg_hf.scoring.prefix_cache import as_columns, positions_of
from rgtg_hf.scoring.scorer import PrefixBatch
from rgtg_hf.scoring.shared_attention import CandidateLayout, sharing_attention

__all__ = ["HybridScorer"]


class _Step(NamedTuple):
    """The candidates that were read last.

    Attributes:
        cache: What they have read.
        columns: Their prefixes, -1 at padding, shape `[rows, length]`.
        prefixes: The row of each candidate, shape `[candidates]`.
        ids: The candidates, shape `[candidates]`.
        rewards: Of the prefixes with the candidates, shape `[candidates]`.
    """

    cache: HybridCache
    columns: Tensor
    prefixes: Tensor
    ids: Tensor
    rewards: Tensor


class HybridScorer(ExpandScorer):
    """Scores candidates in one pass of a token each, over one cache per row and a recurrent state per candidate.

    The price of a step does not depend on the length of the prefix, beyond attention itself. Between steps the states
    of the last candidates are kept, k per row.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label, whose layers are full attention or
            recurrent, and whose attention goes through transformers' `AttentionInterface`.

    Raises:
        ValueError: If it has other layers, or none that is recurrent.
    """

    def __init__(self, reward_model: PreTrainedModel):
        super().__init__(reward_model)
        check_layers(self.cache.backbone.config)
        self._decoder = find_backbone(reward_model)
        self._last: _Step | None = None

    @torch.no_grad()
    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Computes increments; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        cache, device = self.cache, candidate_ids.device
        wanted = torch.ones_like(candidate_ids, dtype=torch.bool) if wanted is None else wanted
        wanted, ids = wanted.to(cache.device), candidate_ids.to(cache.device)
        columns, asked = as_columns(prefixes).to(cache.device), wanted.any(-1, keepdim=True)
        chosen, stays = self._match(columns)
        flags = asked.any(), wanted.all(), (chosen >= 0).all(), stays.all()
        any_asked, all_wanted, all_found, all_stay = torch.stack(flags).tolist()  # the one look at the device
        if not any_asked:
            return torch.zeros(candidate_ids.shape, device=device)
        last, self._last = self._last, None  # until the candidates are read, nothing is sure
        before = self._follow(last, columns, chosen, not all_stay) if last is not None and all_found else None
        if before is None:
            before = self.head(cache.read(columns))[:, 0].float()

        order = torch.arange(ids.shape[1], device=ids.device)
        if all_wanted:
            rows = torch.arange(len(ids), device=ids.device).repeat_interleave(len(order))
            slots, candidates = order.repeat(len(ids)), ids.flatten()
        else:
            # A row for which nothing is wanted is given its last token again, as rows are that have ended.
            rows, slots = (wanted | (~asked & (order == 0))).nonzero().unbind(-1)
            candidates = torch.where(asked, ids, columns[:, -1:])[rows, slots]
        after, read = self._read(candidates, columns, CandidateLayout(rows, slots, len(order), columns >= 0))
        self._last = _Step(read, columns, rows, candidates, after)
        increments = torch.zeros(ids.shape, device=ids.device)
        increments[rows, slots] = after - before[rows]
        return increments.masked_fill(~wanted, 0.0).to(device)

    def _read(self, candidates: Tensor, columns: Tensor, layout: CandidateLayout) -> tuple[Tensor, HybridCache]:
        """Reads candidates; the rewards of their prefixes with them, `[candidates]`, and what they have written."""
        assert self.cache.cache is not None
        read = HybridCache(self.cache.cache, layout)
        positions = positions_of(columns)[layout.prefixes, -1:] + (candidates >= 0)[:, None].long()
        with sharing_attention(self._decoder, layout):  # type: ignore[arg-type]
            # Without a mask, since attention has the layout's, and a recurrent layer needs none for a single token.
            hidden = self.cache.forward(candidates[:, None], None, positions, read)
        return self.head(hidden)[:, 0, 0].float(), read

    def _match(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Finds the candidates, among those that were read last, that rows go on with.

        Returns:
            The candidate of each row, -1 for none, and whether it is one of the row with the same number, shape
            `[rows]`.
        """
        last, rows = self._last, torch.arange(len(columns), device=columns.device)
        if last is None or columns.shape[1] != last.columns.shape[1] + 1:
            return torch.full_like(rows, -1), torch.ones_like(rows, dtype=torch.bool)
        same = (columns[:, None, :-1] == last.columns).all(-1)  # [rows, rows before]
        found = same[:, last.prefixes] & (columns[:, -1:] == last.ids)  # [rows, candidates]
        own = found & (last.prefixes == rows[:, None])
        chosen = (found.int() + own.int()).argmax(-1)
        return chosen.masked_fill(~found.any(-1), -1), own.any(-1)

    def _follow(self, last: _Step, columns: Tensor, chosen: Tensor, moved: bool) -> Tensor | None:
        """Takes over what was read of the candidates that rows go on with.

        Returns:
            The rewards of the rows, shape `[rows]`; `None` if other weights have read them.
        """
        changed = self.cache.backbone.state.has_changed()
        self.cache.reset()
        if changed:
            return None
        self.cache.cache = last.cache.follow(chosen, moved or len(columns) != len(last.columns))
        self.cache.columns = columns
        return last.rewards[chosen]

    def reset(self) -> None:
        """Forgets the cache, and what was read last."""
        super().reset()
        self._last = None
