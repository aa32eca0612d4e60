"""All candidates of a row in one forward pass, as siblings that share the cached prefix.

The k candidates follow the prefix in one sequence, each a tail of one token: see
[`TreeReader`][rgtg_hf.scoring.tree_reader.TreeReader]. The candidate that is chosen has been read then, so a step
costs k tokens per row and no more.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.checks import vocabulary_size
from rgtg_hf.scoring.scorer import CandidateRewards, PrefixBatch
from rgtg_hf.scoring.tree_reader import TreeReader

__all__ = ["TreeScorer"]


class TreeScorer:
    """Scores candidates as siblings: one forward pass of k tokens and one cache per row.

    Candidates that are not wanted are not read, and neither are rows without any: they lie behind and catch up in the
    pass that reads them next.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label that takes 4-D masks
            (attention by sdpa or eager).

    Attributes:
        vocabulary_size: Number of token ids that the reward model can read.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.reader = TreeReader(reward_model)
        self.vocabulary_size: int | None = vocabulary_size(reward_model)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.reader.tokens_computed

    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor) -> CandidateRewards:
        """Scores candidates; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        real = prefixes.attention_mask.bool()
        trunks = [ids[mask].tolist() for ids, mask in zip(prefixes.input_ids, real, strict=True)]
        base_ends = (real[:, : prefixes.base_length].sum(-1) - 1).tolist()
        candidates = candidate_ids.tolist()
        wanted = [[True] * len(row) for row in candidates] if prefixes.wanted is None else prefixes.wanted.tolist()

        tails = [
            [[id_] for id_, asked in zip(row, row_wanted, strict=True) if asked]
            for row, row_wanted in zip(candidates, wanted, strict=True)
        ]
        found = self.reader.read(trunks, tails)
        rewards, base = [], []
        for row, (row_wanted, own) in enumerate(zip(wanted, found, strict=True)):
            each = iter(own)
            rewards.append([next(each) if asked else 0.0 for asked in row_wanted])
            base.append(self.reader.reward_at(row, base_ends[row]) if own else 0.0)
        device = candidate_ids.device
        return CandidateRewards(torch.tensor(rewards, device=device), torch.tensor(base, device=device))

    def reset(self) -> None:
        """Forgets the cache."""
        self.reader.reset()
