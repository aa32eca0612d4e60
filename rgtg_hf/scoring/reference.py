"""Whole sequences, one at a time, no cache, no padding: slow and obvious. Every other scorer is tested against it."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.checks import vocabulary_size
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.scoring.scorer import CandidateRewards, PrefixBatch

__all__ = ["ReferenceScorer"]


class ReferenceScorer:
    """Reads prompt, prefix and candidate anew for every candidate.

    Costs k (P + t + 1) reward-model tokens per step for P prompt and t generated tokens. It is the definition of the
    right answer, and the scorer of last resort for an architecture that no faster scorer serves rightly.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label.

    Attributes:
        vocabulary_size: Number of token ids that the reward model can read.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.reward_model = reward_model
        self.device = next(reward_model.parameters()).device
        self.tokens_computed = 0
        self.vocabulary_size: int | None = vocabulary_size(reward_model)

    @torch.no_grad()
    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor) -> CandidateRewards:
        """Scores candidates; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        device, end = candidate_ids.device, prefixes.base_length
        candidates = torch.zeros(candidate_ids.shape, dtype=torch.float32)
        base = torch.zeros(len(candidate_ids), dtype=torch.float32)
        for row, (ids, mask) in enumerate(zip(prefixes.input_ids, prefixes.attention_mask.bool(), strict=True)):
            base[row] = self._last_reward(ids[:end][mask[:end]])
            for column, candidate in enumerate(candidate_ids[row]):
                candidates[row, column] = self._last_reward(torch.cat([ids[mask], candidate[None]]))
        return CandidateRewards(candidates.to(device), base.to(device))

    def _last_reward(self, ids: Tensor) -> Tensor:
        self.tokens_computed += len(ids)
        return prefix_rewards(self.reward_model, ids[None].to(self.device), use_cache=False)[0, -1].float()

    def reset(self) -> None:
        """Does nothing: nothing is kept."""
