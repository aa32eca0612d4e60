"""All candidates of a row in one forward pass, as siblings that share the cached prefix.

The k candidates follow the prefix in one sequence, and none sees another: see
[`SiblingReader`][rgtg_hf.scoring.sibling_reader.SiblingReader]. The candidate that is chosen has been read by then, so
a step costs k tokens per row.
"""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.causal_classifier import vocabulary_size
from rgtg_hf.scoring.scorer import PrefixBatch, place_increments
from rgtg_hf.scoring.sibling_reader import SiblingReader

__all__ = ["SiblingScorer"]


class SiblingScorer:
    """Scores candidates as siblings: one forward pass of k tokens and one cache per row.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label that takes 4-D masks
            (attention by sdpa or eager).

    Attributes:
        vocabulary_size: Number of token ids that the reward model can read.

    Raises:
        ValueError: If the model has recurrent layers.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.reader = SiblingReader(reward_model)
        self.vocabulary_size: int | None = vocabulary_size(reward_model)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.reader.tokens_computed

    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Computes increments; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        rows = prefixes.on_host(candidate_ids, wanted)
        # The empty continuation is the prefix itself.
        continuations = [[[], *([id_] for id_ in row.candidates)] if row.candidates else [] for row in rows]
        rewards = self.reader.read([row.prefix for row in rows], continuations)
        return place_increments(rewards, [row.columns for row in rows], candidate_ids)

    def rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
        """Computes rewards; see [`Scorer.rewards`][rgtg_hf.scoring.scorer.Scorer.rewards]."""
        prefixes = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        return [reward for row in self.reader.read(prefixes, [[[]] for _ in prefixes]) for reward in row]

    def reset(self) -> None:
        """Forgets the cache."""
        self.reader.reset()
