"""All candidates from one reward-model token: for models that score the next token before it is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rgtg_hf.rewards.causal_classifier import vocabulary_size
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.sequence_rewards import sequence_rewards
from rgtg_hf.rewards.token_head import token_increments
from rgtg_hf.scoring.prefix_cache import PrefixCache, as_columns
from rgtg_hf.scoring.row_reader import RowReader
from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["NextTokenScorer"]


class NextTokenScorer:
    """Scores candidates with a `NextTokenRewardModel`: one token and one cache per row, however many candidates.

    It serves a steering head too, by running its policy's decoder a second time; `steering` avoids that.

    Args:
        reward_model: The model; a steering head must be attached to its policy.
        use_cuda_graph: Whether its steps run as a CUDA graph.
        padded: Whether to read through a padded cache, as models need that take no 4-D mask or have recurrent layers.

    Attributes:
        vocabulary_size: Number of token ids that the reward model can read.

    Raises:
        TypeError: If it is a reward model of another kind.
    """

    def __init__(self, reward_model: NextTokenRewardModel, use_cuda_graph: bool = False, padded: bool = False):
        if not isinstance(reward_model, NextTokenRewardModel):
            raise TypeError(
                f"A {type(reward_model).__name__} scores a token only after reading it: use the scorer 'auto'."
            )
        self.reward_model = reward_model
        self.vocabulary_size: int | None = vocabulary_size(reward_model)
        self.reader = PrefixCache(reward_model) if padded else RowReader(reward_model, use_cuda_graph)
        self._layers = getattr(reward_model.backbone.config, "num_hidden_layers", None)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.reader.tokens_computed

    @torch.no_grad()
    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Computes increments; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        with self._all_layers():
            hidden = self._read(prefixes, None if wanted is None else wanted.any(-1))
        if hidden is None:
            return torch.zeros(candidate_ids.shape, device=candidate_ids.device)
        directions = self.reward_model.score.directions(hidden)
        embeddings = self.reward_model.token_embeddings
        increments = token_increments(directions, candidate_ids.to(embeddings.device), embeddings)
        increments = increments.to(candidate_ids.device)
        return increments if wanted is None else increments.masked_fill(~wanted, 0.0)

    def _read(self, prefixes: PrefixBatch, needed: Tensor | None) -> Tensor | None:
        """The hidden states of the last tokens, shape `[rows, hidden]`; `None` if no row is needed."""
        if isinstance(self.reader, PrefixCache):
            if needed is not None and not bool(needed.any()):
                return None
            return self.reader.read(as_columns(prefixes))
        device = self.reader.backbone.device
        ids, lengths = prefixes.without_padding(device)
        hidden = self.reader.read(ids, lengths, needed=None if needed is None else needed.to(device))
        return None if hidden is None else hidden[:, 0]

    def rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
        """Computes rewards; see [`Scorer.rewards`][rgtg_hf.scoring.scorer.Scorer.rewards]."""
        sequences = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        self.reader.tokens_computed += sum(map(len, sequences))
        return sequence_rewards(self.reward_model, sequences)

    @contextmanager
    def _all_layers(self) -> Iterator[None]:
        """Reads with all layers, also while `assistant_early_exit` leaves some of the policy's out for its drafts."""
        config = self.reward_model.backbone.config
        layers = getattr(config, "num_hidden_layers", None)
        if layers == self._layers:
            yield
            return
        config.num_hidden_layers = self._layers
        try:
            yield
        finally:
            config.num_hidden_layers = layers

    def reset(self) -> None:
        """Forgets the cache."""
        self.reader.reset()
