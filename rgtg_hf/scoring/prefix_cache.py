"""A reward model's KV cache for a batch of prefixes, brought up to date by longest common prefix.

`generate()` never says that a new generation began, that beams moved, or that drafted tokens were dropped. All of it
shows in the token ids: each row now asked for has a longest common prefix with some row of the cache, and everything
up to there can be kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from rgtg_hf.scoring.backbone import Backbone
from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["PrefixCache", "as_columns", "positions_of"]

_PADDING = -1  # stands for a padded column, whatever id was put there


class PrefixCache:
    """Holds the keys and values of a batch of left-padded prefixes and extends them.

    The cache is built without a configuration, so it keeps every token also for layers with a sliding window (their
    mask does the forgetting), which is what makes cropping possible. Models with recurrent layers need a cache of
    their own kind; theirs cannot be cropped, so a row that loses tokens is read anew.

    Args:
        reward_model: A causal `*ForSequenceClassification` model.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.backbone = Backbone(reward_model)
        self.device = self.backbone.device
        self.is_recurrent = self.backbone.is_recurrent
        self.reset()

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.backbone.tokens_computed

    def reset(self) -> None:
        """Forgets everything."""
        self.cache: Cache | None = None
        self.columns: Tensor | None = None

    def keep_common_prefix(self, columns: Tensor, limit: int) -> int:
        """Reorders and crops the cache so that it holds a common beginning of the given rows.

        Args:
            columns: The rows wanted, token ids with -1 at padding, shape `[rows, length]`.
            limit: The most columns to keep; the rest is to be computed again, because its rewards are wanted.

        Returns:
            The number of leading columns of `columns` that the cache now holds, the same for every row.
        """
        if self.columns is None:
            return 0
        width = min(columns.shape[1], self.columns.shape[1])
        kept, rows = _longest_common_prefix(columns[:, :width], self.columns[:, :width])
        kept = min(kept, limit)
        surplus = self.columns.shape[1] - kept
        if kept == 0 or (surplus and self.is_recurrent):
            self.reset()
            return 0
        assert self.cache is not None
        if rows is not None:
            self.cache.reorder_cache(rows)  # type: ignore[arg-type]
        self.crop(surplus)
        self.columns = columns[:, :kept]
        return kept

    def extend(self, columns: Tensor) -> Tensor:
        """Reads the columns that the cache does not hold yet.

        Args:
            columns: The rows wanted, of which the cache holds a beginning, shape `[rows, length]`.

        Returns:
            Hidden states of the new columns, shape `[rows, new, hidden]`.
        """
        seen = 0 if self.columns is None else self.columns.shape[1]
        if self.is_recurrent and seen and columns.shape[1] - seen > 1:
            # A recurrent layer that starts from a state takes one token at a time.
            steps = [self.extend(columns[:, : end + 1]) for end in range(seen, columns.shape[1])]
            return torch.cat(steps, dim=1)
        hidden = self.forward(columns[:, seen:], (columns != _PADDING).long(), positions_of(columns)[:, seen:])
        self.columns = columns
        return hidden

    def forward(self, ids: Tensor, attention_mask: object, positions: Tensor, cache: Cache | None = None) -> Tensor:
        """Runs the backbone on top of the cache.

        Args:
            ids: New tokens (-1 at padding), shape `[rows, new]`.
            attention_mask: Whatever the backbone takes: a 2-D mask over all columns, a 4-D additive mask, or a
                dictionary of such by layer type.
            positions: Position of each new token, shape `[rows, new]`.
            cache: The cache to use instead of the own one.

        Returns:
            Hidden states, shape `[rows, new, hidden]`.
        """
        if cache is None:
            if self.cache is None:
                self.cache = DynamicCache(config=self.backbone.config) if self.is_recurrent else DynamicCache()
            cache = self.cache
        return self.backbone.read(ids, attention_mask, positions, cache)

    def crop(self, tokens: int) -> None:
        """Drops the last `tokens` tokens from the cache, as when candidates were read."""
        if tokens:
            self.cache.crop(-tokens)  # type: ignore[union-attr]


def as_columns(prefixes: PrefixBatch) -> Tensor:
    """Token ids with -1 in place of padding, so that equal columns are equal prefixes, shape `[rows, length]`."""
    return prefixes.input_ids.masked_fill(prefixes.attention_mask == 0, _PADDING)


def positions_of(columns: Tensor) -> Tensor:
    """Positions that count tokens and not padding, shape `[rows, length]`."""
    return ((columns != _PADDING).long().cumsum(-1) - 1).clamp(min=0)


def _longest_common_prefix(wanted: Tensor, held: Tensor) -> tuple[int, Tensor | None]:
    """For each wanted row the held row that agrees longest; the agreement of the worst row; None: rows as they are."""
    if wanted.shape == held.shape and torch.equal(wanted, held):
        return wanted.shape[1], None
    agree = (wanted[:, None] == held[None]).long().cumprod(-1).sum(-1)  # [wanted, held]
    best, rows = agree.max(dim=1)
    if len(wanted) == len(held) and torch.equal(agree.diagonal(), best):
        return int(best.min()), None
    return int(best.min()), rows
