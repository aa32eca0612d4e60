"""Whole sequences, no cache, no padding: slow and obvious. Every other scorer is tested against it."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.causal_classifier import check_positions, learned_positions, vocabulary_size
from rgtg_hf.rewards.sequence_rewards import sequence_rewards
from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["ReferenceScorer"]


class ReferenceScorer:
    """Reads prompt, prefix and candidate from the start for every candidate.

    Costs (k + 1) (P + t + 1) reward-model tokens per step for P prompt and t generated tokens. It defines the right
    answer, and it serves the architectures for which no faster scorer is right.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label.

    Attributes:
        vocabulary_size: Number of token ids that the reward model can read.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.reward_model = reward_model
        self.longest = learned_positions(reward_model)
        self.tokens_computed = 0
        self.vocabulary_size: int | None = vocabulary_size(reward_model)

    @torch.no_grad()
    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Computes increments; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        increments = torch.zeros(candidate_ids.shape, dtype=torch.float32)
        wanted = torch.ones_like(candidate_ids, dtype=torch.bool) if wanted is None else wanted
        for row, columns in enumerate(wanted.cpu()):
            if not columns.any():
                continue
            ids = prefixes.input_ids[row][prefixes.attention_mask[row].bool()].cpu()
            candidates = candidate_ids[row].cpu()[columns, None]
            after = self._last_rewards(torch.cat([ids.expand(len(candidates), -1), candidates], dim=1))
            increments[row, columns] = after - self._last_rewards(ids[None])
        return increments.to(candidate_ids.device)

    @torch.no_grad()
    def rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
        """Computes rewards; see [`Scorer.rewards`][rgtg_hf.scoring.scorer.Scorer.rewards]."""
        sequences = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        return [float(self._last_rewards(torch.tensor([sequence]))) for sequence in sequences]

    def _last_rewards(self, ids: Tensor) -> Tensor:
        """The rewards of sequences of one length."""
        self.tokens_computed += ids.numel()
        check_positions(self.longest, ids.shape[1])
        return torch.tensor(sequence_rewards(self.reward_model, ids.tolist()))

    def reset(self) -> None:
        """Does nothing: nothing is kept."""
