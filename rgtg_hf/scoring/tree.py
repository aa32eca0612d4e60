"""All candidates of a row in one forward pass, as siblings that share the cached prefix.

The k candidates follow the prefix in one sequence. A 4-D mask lets each see the prefix and itself but none of its
siblings, and all of them get the same position: the model computes for each what it would compute alone.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.checks import vocabulary_size
from rgtg_hf.rewards.prefix_rewards import find_score_head
from rgtg_hf.scoring.prefix_cache import PrefixCache, as_columns, positions_of
from rgtg_hf.scoring.scorer import CandidateRewards, PrefixBatch

__all__ = ["TreeScorer"]

# Up to so many new columns are read in the same pass as the candidates. More (a prompt) go first in a pass of their
# own, whose mask the model makes itself: there it need not be written out, column by column.
_LARGEST_JOINT_READ = 16


class TreeScorer:
    """Scores candidates as siblings: one forward pass of k tokens and one cache per row.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label that takes 4-D masks
            (attention by sdpa or eager).

    Attributes:
        vocabulary_size: Number of token ids that the reward model can read.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.cache = PrefixCache(reward_model)
        if self.cache.is_recurrent:
            raise ValueError("Siblings cannot share a recurrent state: use the expand scorer.")
        self.head = find_score_head(reward_model)
        self.vocabulary_size: int | None = vocabulary_size(reward_model)
        self.dtype = next(reward_model.parameters()).dtype
        config = self.cache.config
        window = getattr(config, "sliding_window", None)
        layer_types = set(getattr(config, "layer_types", None) or ())
        # A model without a list of layer types has one kind of layer: windowed where it names a window.
        self.windows: dict[str, int | None] = {
            kind: window if kind == "sliding_attention" else None
            for kind in layer_types or {"sliding_attention" if window else "full_attention"}
        }

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.cache.tokens_computed

    @torch.no_grad()
    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor) -> CandidateRewards:
        """Scores candidates; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        cache, device, base_length = self.cache, self.cache.device, prefixes.base_length
        columns = as_columns(prefixes).to(device)
        k = candidate_ids.shape[1]
        kept = cache.keep_common_prefix(columns, limit=base_length - 1)
        if columns.shape[1] - kept > _LARGEST_JOINT_READ and base_length - 1 > kept:
            cache.extend(columns[:, : base_length - 1])
            kept = base_length - 1
        new = columns.shape[1] - kept

        positions = positions_of(columns)
        hidden = cache.forward(
            torch.cat([columns[:, kept:], candidate_ids.to(device)], dim=1),
            self._masks(columns, new, k),
            torch.cat([positions[:, kept:], (positions[:, -1:] + 1).expand(-1, k)], dim=1),
        )
        cache.crop(k)
        cache.columns = columns

        rewards = self.head(hidden)[..., 0].float().to(candidate_ids.device)
        return CandidateRewards(rewards[:, new:], rewards[:, base_length - 1 - kept])

    def _masks(self, columns: Tensor, new: int, k: int) -> Tensor | dict[str, Tensor]:
        """The additive masks of the last `new` columns and k siblings over all columns and siblings."""
        length = columns.shape[1]
        device = columns.device
        # Siblings stand in one place: the next one. So "not later, or oneself" is the whole of causality.
        key_place = torch.arange(length + k, device=device).clamp(max=length)
        query = torch.arange(length - new, length + k, device=device)
        query_place = query.clamp(max=length)
        distance = query_place[:, None] - key_place[None]
        itself = query[:, None] == torch.arange(length + k, device=device)[None]
        visible = (distance > 0) | itself
        real = torch.cat([columns >= 0, torch.ones_like(columns[:, :1], dtype=torch.bool).expand(-1, k)], dim=1)
        masks = {}
        for kind, window in self.windows.items():
            seen = visible if window is None else visible & (distance < window)
            allowed = (seen[None] & real[:, None])[:, None]
            masks[kind] = torch.zeros(allowed.shape, dtype=self.dtype, device=device).masked_fill(
                ~allowed, torch.finfo(self.dtype).min
            )
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def reset(self) -> None:
        """Forgets the cache."""
        self.cache.reset()
