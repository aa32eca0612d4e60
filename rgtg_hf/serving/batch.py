"""Guides the rows of an engine's running batch: requests join and leave it, move within it, and are steered each on
its own. Nothing here knows which engine it is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rgtg_hf.decoding.guidance import Candidates, RewardGuidanceConfig, guide, keep_candidates, select_candidates
from rgtg_hf.scoring.rows import RowScorer
from rgtg_hf.scoring.scorer import CandidateRewards

__all__ = ["GuidedBatch"]

logger = logging.getLogger(__name__)


@dataclass
class _Request:
    """A guided request: its settings, and its row in the reward model's cache (none before it was first read)."""

    beta: float
    top_k: int
    row: int | None = None
    failed: bool = False


class GuidedBatch:
    """The guided requests of a running batch.

    Requests go by keys of the engine's choice (the row of the batch that they are in, say). Those that are not guided
    are never heard of here.

    Args:
        scorer: The reward model's scorer. Its rows are kept without gaps here.
    """

    def __init__(self, scorer: RowScorer):
        self.scorer = scorer
        self._requests: dict[Hashable, _Request] = {}
        self._keys: list[Hashable] = []  # of the scorer's rows

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._requests

    def join(self, key: Hashable, beta: float, top_k: int) -> None:
        """Takes a request in. Whatever had this key has left."""
        self.leave(key)
        self._requests[key] = _Request(beta, top_k)

    def leave(self, key: Hashable) -> None:
        """Forgets a request, if it is here, with all that was read of it."""
        request = self._requests.pop(key, None)
        if request is not None:
            self._forget(request)

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Lets go what was read of all other requests. They stay, and are read anew when they are next guided."""
        for key, request in self._requests.items():
            if key not in keys:
                self._forget(request)

    def _forget(self, request: _Request) -> None:
        if request.row is None:
            return
        last = self.scorer.forget(request.row)
        moved = self._keys.pop(last)
        if last != request.row:
            self._keys[request.row] = moved
            self._requests[moved].row = request.row
        request.row = None

    def move(self, source: Hashable, target: Hashable) -> None:
        """A request changes its key. Whatever had the new one has left."""
        self.leave(target)
        if source in self._requests:
            self._put(target, self._requests.pop(source))

    def swap(self, one: Hashable, other: Hashable) -> None:
        """Two requests, of which either may not be guided, change keys."""
        first, second = self._requests.pop(one, None), self._requests.pop(other, None)
        for key, request in ((other, first), (one, second)):
            if request is not None:
                self._put(key, request)

    def _put(self, key: Hashable, request: _Request) -> None:
        self._requests[key] = request
        if request.row is not None:
            self._keys[request.row] = key

    @torch.no_grad()
    def guide(self, keys: Sequence[Hashable], prefixes: Sequence[list[int]], scores: Tensor) -> Tensor:
        """Guides one step of some requests.

        Args:
            keys: The requests.
            prefixes: The token ids of each, prompt and response.
            scores: The policy's logits of them, `-inf` where a token is ruled out, float32, shape
                `[requests, vocabulary]`. Not changed.

        Returns:
            The guided logits, `-inf` for all but the candidates, shape `[requests, vocabulary]`.
        """
        requests = [self._requests[key] for key in keys]
        betas, top_ks = (
            torch.tensor([getattr(request, name) for request in requests], device=scores.device)
            for name in ("beta", "top_k")
        )
        candidates = self._select(scores, top_ks)
        rivals = candidates.valid.sum(-1) > 1  # a candidate without rivals needs no reward
        wanted = candidates.valid & (rivals & (betas != 0))[:, None]
        if not bool(wanted.any()):
            return keep_candidates(scores, candidates)
        rewards = self._score(keys, requests, prefixes, candidates.ids, wanted)
        changes = betas[:, None] * (rewards.candidates - rewards.base[:, None])
        bad = (wanted & ~torch.isfinite(changes)).any(-1)
        if bool(bad.any()):
            self._complain([request for request, one in zip(requests, bad.tolist(), strict=True) if one])
            changes = changes.masked_fill(bad[:, None], 0.0)
        return guide(scores, candidates, changes, torch.zeros_like(betas), beta=1.0)

    def _select(self, scores: Tensor, top_ks: Tensor) -> Candidates:
        scores = scores.nan_to_num(nan=float("-inf"), posinf=float("inf"), neginf=float("-inf"))
        found = select_candidates(scores, RewardGuidanceConfig(top_k=int(top_ks.max())), self.scorer.vocabulary_size)
        ranks = torch.arange(found.ids.shape[1], device=scores.device)
        return found._replace(valid=found.valid & (ranks < top_ks[:, None]))

    def _score(
        self,
        keys: Sequence[Hashable],
        requests: list[_Request],
        prefixes: Sequence[list[int]],
        candidate_ids: Tensor,
        wanted: Tensor,
    ) -> CandidateRewards:
        for key, request in zip(keys, requests, strict=True):
            if request.row is None:
                request.row = len(self._keys)
                self._keys.append(key)
        return self.scorer.score([request.row for request in requests], list(prefixes), candidate_ids, wanted)  # type: ignore[misc]

    def _complain(self, requests: list[_Request]) -> None:
        """An error would end the server for everybody, so these requests go on unsteered and the log says so."""
        if any(not request.failed for request in requests):
            logger.error(
                "The reward model gave a reward that is not finite to %d of the requests, which follow the policy at "
                "this step. Check its weights, and load it in float32 or bfloat16.",
                len(requests),
            )
        for request in requests:
            request.failed = True
