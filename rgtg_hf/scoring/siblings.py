"""All candidates of a row in one forward pass, as siblings that share the cached prefix.

The k candidates follow the prefix in one sequence, and none sees another: see
[`RowReader`][rgtg_hf.scoring.row_reader.RowReader]. A step reads k + 1 tokens per row, the one that was chosen last
and the candidates, so its increments are differences within one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rgtg_hf.rewards.causal_classifier import vocabulary_size
from rgtg_hf.rewards.parts import find_score_head
from rgtg_hf.scoring.row_reader import RowReader, padded
from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["SiblingScorer", "sibling_increments"]


class SiblingScorer:
    """Scores candidates as siblings: one forward pass of k + 1 tokens and one cache per row.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label that takes 4-D masks
            (attention by sdpa or eager).
        use_cuda_graph: Whether its steps run as a CUDA graph.

    Attributes:
        vocabulary_size: Number of token ids that the reward model can read.

    Raises:
        ValueError: If the model has recurrent layers.
    """

    def __init__(self, reward_model: PreTrainedModel, use_cuda_graph: bool = False):
        self.reader = RowReader(reward_model, use_cuda_graph)
        self.head = find_score_head(reward_model)
        self.vocabulary_size: int | None = vocabulary_size(reward_model)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.reader.tokens_computed

    @torch.no_grad()
    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Computes increments; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        device = self.reader.backbone.device
        ids, lengths = prefixes.without_padding(device)
        needed = None if wanted is None else wanted.any(-1).to(device)
        hidden = self.reader.read(ids, lengths, candidate_ids.to(device), needed=needed)
        if hidden is None:
            return torch.zeros(candidate_ids.shape, device=candidate_ids.device)
        increments = sibling_increments(self.head, hidden).to(candidate_ids.device)
        return increments if wanted is None else increments.masked_fill(~wanted, 0.0)

    @torch.no_grad()
    def rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
        """Computes rewards; see [`Scorer.rewards`][rgtg_hf.scoring.scorer.Scorer.rewards]."""
        if not prompts:
            return []
        rows = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        hidden = self.reader.read(*padded(rows, self.reader.backbone.device))
        assert hidden is not None
        return self.head(hidden)[:, 0, 0].float().tolist()

    def reset(self) -> None:
        """Forgets the cache."""
        self.reader.reset()


def sibling_increments(head: nn.Module, hidden: Tensor) -> Tensor:
    """The increments of candidates, from hidden states of the prefix and then the candidates.

    Args:
        head: The score head.
        hidden: Shape `[rows, 1 + k, hidden]`, as [`RowReader`][rgtg_hf.scoring.row_reader.RowReader] gives them.

    Returns:
        float32, shape `[rows, k]`.
    """
    rewards = head(hidden)[..., 0].float()
    return rewards[:, 1:] - rewards[:, :1]
