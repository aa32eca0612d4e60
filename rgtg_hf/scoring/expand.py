"""A row per candidate: for causal architectures whose candidates cannot be read as siblings."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.checks import vocabulary_size
from rgtg_hf.rewards.prefix_rewards import find_score_head
from rgtg_hf.scoring.prefix_cache import PrefixCache, as_columns, positions_of
from rgtg_hf.scoring.scorer import CandidateRewards, PrefixBatch

__all__ = ["ExpandScorer"]


class ExpandScorer:
    """Copies each row's cache once per candidate and reads the candidates as a batch of `rows * k`.

    The model sees an ordinary next token after an ordinary cache, so every causal architecture that can decode is
    served, recurrent ones too. The price is k copies of the cache for the length of a step.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label.

    Attributes:
        vocabulary_size: Number of token ids that the reward model can read.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.cache = PrefixCache(reward_model)
        self.head = find_score_head(reward_model)
        self.vocabulary_size: int | None = vocabulary_size(reward_model)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.cache.tokens_computed

    @torch.no_grad()
    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor) -> CandidateRewards:
        """Scores candidates; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        cache, base_length = self.cache, prefixes.base_length
        columns = as_columns(prefixes).to(cache.device)
        k = candidate_ids.shape[1]
        kept = cache.keep_common_prefix(columns, limit=base_length - 1)
        prefix_hidden = cache.extend(columns)

        candidates = candidate_ids.to(cache.device).reshape(-1, 1)
        rows = torch.cat([columns.repeat_interleave(k, dim=0), candidates], dim=1)
        copies = copy.deepcopy(cache.cache)
        copies.reorder_cache(torch.arange(len(columns), device=cache.device).repeat_interleave(k))  # type: ignore[union-attr, arg-type]
        hidden = cache.forward(candidates, (rows >= 0).long(), positions_of(rows)[:, -1:], copies)

        rewards = self.head(hidden)[:, 0, 0].float().reshape(-1, k).to(candidate_ids.device)
        base = self.head(prefix_hidden[:, base_length - 1 - kept])[:, 0].float().to(candidate_ids.device)
        return CandidateRewards(rewards, base)

    def reset(self) -> None:
        """Forgets the cache."""
        self.cache.reset()
