"""A cache per candidate: for causal architectures whose candidates cannot be read as siblings."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.causal_classifier import vocabulary_size
from rgtg_hf.rewards.parts import find_score_head
from rgtg_hf.rewards.sequence_rewards import sequence_rewards
from rgtg_hf.scoring.prefix_cache import PrefixCache, as_columns, positions_of
from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["ExpandScorer"]


class ExpandScorer:
    """Copies each row's cache once per candidate and reads the candidates as a batch of `rows * k`.

    The model sees an ordinary next token after an ordinary cache, so this serves every causal architecture that can
    decode, recurrent ones too. The price is k copies of the cache for the length of a step.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label.

    Attributes:
        vocabulary_size: Number of token ids that the reward model can read.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.reward_model = reward_model
        self.cache = PrefixCache(reward_model)
        self.head = find_score_head(reward_model)
        self.vocabulary_size: int | None = vocabulary_size(reward_model)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.cache.tokens_computed

    @torch.no_grad()
    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Computes increments; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        cache, device = self.cache, candidate_ids.device
        increments = torch.zeros(candidate_ids.shape, device=device)
        wanted = torch.ones_like(candidate_ids, dtype=torch.bool) if wanted is None else wanted.to(device)
        rows = wanted.nonzero()[:, 0].to(cache.device)
        if not len(rows):
            return increments
        columns = as_columns(prefixes).to(cache.device)
        before = self.head(cache.read(columns))[:, 0].float()

        candidates = candidate_ids[wanted].to(cache.device)[:, None]
        extended = torch.cat([columns[rows], candidates], dim=1)
        copies = copy.deepcopy(cache.cache)
        copies.reorder_cache(rows)  # type: ignore[union-attr, arg-type]
        hidden = cache.forward(candidates, (extended >= 0).long(), positions_of(extended)[:, -1:], copies)
        after = self.head(hidden)[:, 0, 0].float()
        increments[wanted] = (after - before[rows]).to(device)
        return increments

    def rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
        """Computes rewards; see [`Scorer.rewards`][rgtg_hf.scoring.scorer.Scorer.rewards]."""
        sequences = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        self.cache.tokens_computed += sum(map(len, sequences))
        return sequence_rewards(self.reward_model, sequences)

    def reset(self) -> None:
        """Forgets the cache."""
        self.cache.reset()
