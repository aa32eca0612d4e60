"""A reward model's cache for a batch of prefixes, brought up to date by longest common prefix.

`generate()` never says that a new generation began, that beams moved, or that drafted tokens were dropped. All of it
shows in the token ids: each row has a longest common prefix with some row of the cache, and everything up to there can
be kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from rgtg_hf.rewards.causal_classifier import check_positions
from rgtg_hf.scoring.backbone import Backbone
from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["PrefixCache", "as_columns", "positions_of"]

_PADDING = -1  # stands for a padded column, whatever id was put there


class PrefixCache:
    """Holds the keys and values of a batch of left-padded prefixes and extends them.

    The cache is built without a configuration, so it keeps every token also for layers with a sliding window (their
    mask does the forgetting), which is what makes cropping possible. Models with recurrent layers need a cache of
    their own kind, which cannot be cropped: where a row loses tokens, the batch is read from the start.

    Args:
        reward_model: A causal `*ForSequenceClassification` model.

    Attributes:
        tokens_computed: Reward-model tokens computed so far, padding included.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.tokens_computed = 0
        self.backbone = Backbone(reward_model)
        self.device = self.backbone.device
        self.is_recurrent = self.backbone.is_recurrent
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.cache: Cache | None = None
        self.columns: Tensor | None = None

    def read(self, columns: Tensor) -> Tensor:
        """Reads the columns that the cache does not hold yet, and the last one in any case.

        Args:
            columns: The rows, token ids with -1 at padding, shape `[rows, length]`.

        Returns:
            Hidden states of the last column, shape `[rows, hidden]`.
        """
        if self.backbone.state.has_changed(thorough=True):
            self.reset()
        columns = columns.to(self.device)
        self._keep_common_prefix(columns)
        return self._extend(columns)[:, -1]

    def _keep_common_prefix(self, columns: Tensor) -> None:
        """Reorders and crops the cache so that it holds a common beginning of the rows."""
        if self.columns is None:
            return
        width = min(columns.shape[1] - 1, self.columns.shape[1])
        agreed, source = _longest_common_prefix(columns[:, :width], self.columns[:, :width])
        kept = int(agreed.min())
        surplus = self.columns.shape[1] - kept
        if kept == 0 or (surplus and self.is_recurrent):
            self.reset()
            return
        assert self.cache is not None
        if source is not None:
            self.cache.reorder_cache(source)  # type: ignore[arg-type]
        if surplus:
            self.cache.crop(-surplus)  # type: ignore[attr-defined]
        self.columns = columns[:, :kept]

    def _extend(self, columns: Tensor) -> Tensor:
        """Reads the columns that the cache does not hold yet; their hidden states, shape `[rows, new, hidden]`."""
        seen = 0 if self.columns is None else self.columns.shape[1]
        if self.is_recurrent and seen and columns.shape[1] - seen > 1:
            # A recurrent layer that starts from a state takes one token at a time.
            steps = [self._extend(columns[:, : end + 1]) for end in range(seen, columns.shape[1])]
            return torch.cat(steps, dim=1)
        hidden = self.forward(columns[:, seen:], (columns >= 0).long(), positions_of(columns)[:, seen:])
        self.columns = columns
        return hidden

    def forward(
        self, ids: Tensor, attention_mask: Tensor | None, positions: Tensor, cache: Cache | None = None
    ) -> Tensor:
        """Runs the backbone on top of the cache.

        Args:
            ids: New tokens (-1 at padding), shape `[rows, new]`.
            attention_mask: 1 for tokens, 0 for padding, over all columns, shape `[rows, length]`; `None` if no
                layer needs it.
            positions: Position of each new token, shape `[rows, new]`.
            cache: Another cache to use in place of its own.

        Returns:
            Hidden states, shape `[rows, new, hidden]`.
        """
        if self.backbone.longest is not None:
            check_positions(self.backbone.longest, int(positions.max()) + 1)
        if cache is None:
            if self.cache is None:
                self.cache = DynamicCache(config=self.backbone.config) if self.is_recurrent else DynamicCache()
            cache = self.cache
        self.tokens_computed += ids.numel()
        return self.backbone.read(ids, attention_mask, positions, cache)


def as_columns(prefixes: PrefixBatch) -> Tensor:
    """Token ids with -1 in place of padding, so that equal columns are equal prefixes, shape `[rows, length]`."""
    return prefixes.input_ids.masked_fill(prefixes.attention_mask == 0, _PADDING)


def positions_of(columns: Tensor) -> Tensor:
    """Positions that count tokens and not padding, shape `[rows, length]`."""
    return ((columns >= 0).long().cumsum(-1) - 1).clamp(min=0)


def _longest_common_prefix(wanted: Tensor, held: Tensor) -> tuple[Tensor, Tensor | None]:
    """For each row how many columns agree with some held row, and which; `None` if each agrees with its own."""
    if wanted.shape == held.shape and torch.equal(wanted, held):
        return wanted.new_full((len(wanted),), wanted.shape[1]), None
    agree = (wanted[:, None] == held[None]).long().cumprod(-1).sum(-1)  # [wanted, held]
    best, rows = agree.max(dim=1)
    if len(wanted) == len(held) and torch.equal(agree.diagonal(), best):
        return best, None
    return best, rows
