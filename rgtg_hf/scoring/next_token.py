"""All candidates from one reward-model token: for models that rate the next token before it is read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rgtg_hf.rewards.checks import vocabulary_size
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.token_head import advantages_of
from rgtg_hf.scoring.prefix_cache import PrefixCache, as_columns
from rgtg_hf.scoring.scorer import CandidateRewards, PrefixBatch

__all__ = ["NextTokenScorer"]


class NextTokenScorer:
    """Scores candidates with a `NextTokenRewardModel`: one token and one cache per row, however many candidates.

    The base is always 0: what the head gives is r(x, y_<t v) - r(x, y_<t) itself. A steering head is served too, by
    running its policy's decoder a second time; `steering` avoids that.

    Args:
        reward_model: The model; a steering head must be attached to its policy.

    Attributes:
        vocabulary_size: Number of token ids that the reward model can read.

    Raises:
        TypeError: If it is a reward model of another kind.
    """

    def __init__(self, reward_model: NextTokenRewardModel):
        if not isinstance(reward_model, NextTokenRewardModel):
            raise TypeError(
                f"A {type(reward_model).__name__} rates a token only after reading it: use the scorer 'auto'."
            )
        self.reward_model = reward_model
        self.vocabulary_size: int | None = vocabulary_size(reward_model)
        self.cache = PrefixCache(reward_model)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.cache.tokens_computed

    @torch.no_grad()
    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor) -> CandidateRewards:
        """Scores candidates; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        columns = as_columns(prefixes).to(self.cache.device)
        # The last token of the base is read anew if need be: what follows it is rated from its hidden state on.
        start = prefixes.base_length - 1
        kept = self.cache.keep_common_prefix(columns, limit=start)
        hidden = self.cache.extend(columns)[:, start - kept :]

        embeddings = self.reward_model.token_embeddings
        directions = self.reward_model.score.directions(hidden)
        rewards = advantages_of(directions[:, -1], candidate_ids.to(embeddings.device), embeddings)
        if hidden.shape[1] > 1:  # steps went by unsteered: their tokens' advantages count as well
            read = F.embedding(columns[:, start + 1 :], embeddings)
            rewards = rewards + (directions[:, :-1] * read).sum((1, 2))[:, None]
        rewards = rewards.float().to(candidate_ids.device)
        return CandidateRewards(rewards, torch.zeros_like(rewards[:, 0]))

    def reset(self) -> None:
        """Forgets the cache."""
        self.cache.reset()
