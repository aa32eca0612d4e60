"""Guides the rows of an engine's running batch, for any engine.

Requests join and leave the batch, move within it, and each has its own settings.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rgtg_hf.config import RewardGuidanceConfig
from rgtg_hf.decoding.step import guide_step
from rgtg_hf.serving.rows import RowScorer

__all__ = ["GuidedBatch"]

logger = logging.getLogger(__name__)


@dataclass
class _Request:
    """A guided request: its settings, and its row in the reward model's cache (none before it was first read)."""

    config: RewardGuidanceConfig
    row: int | None = None
    failed: bool = False


class GuidedBatch:
    """The guided requests of a running batch.

    Requests go by keys of the engine's choice, such as their row in the batch. It is told only of those that are
    guided.

    Args:
        scorer: The reward model's scorer. Its rows are kept without gaps here.
    """

    def __init__(self, scorer: RowScorer):
        self.scorer = scorer
        self._requests: dict[Hashable, _Request] = {}
        self._keys: list[Hashable] = []  # of the scorer's rows
        self._not_finite = 0

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._requests

    def join(self, key: Hashable, config: RewardGuidanceConfig) -> None:
        """Takes a request in, with its resolved settings. The request that had this key before has left."""
        self.leave(key)
        self._requests[key] = _Request(config)

    def leave(self, key: Hashable) -> None:
        """Forgets a request, if it is here, with everything that was read of it."""
        request = self._requests.pop(key, None)
        if request is not None:
            self._forget(request)

    def keep_only(self, keys: Collection[Hashable]) -> None:
        """Forgets what was read of all other requests. They stay, and are read again when they are next guided."""
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
        """A request changes its key. The request that had the new one has left."""
        self.leave(target)
        if source in self._requests:
            self._put(target, self._requests.pop(source))

    def swap(self, one: Hashable, other: Hashable) -> None:
        """Two requests change keys. Either of them may be one that is not guided."""
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

        def score(candidate_ids: Tensor, wanted: Tensor) -> Tensor:
            return self.scorer.score(self._rows_of(keys), list(prefixes), candidate_ids, wanted)

        step = guide_step(
            scores.nan_to_num(nan=float("-inf"), posinf=float("inf"), neginf=float("-inf")),
            RewardGuidanceConfig.stacked([request.config for request in requests], scores.device),
            score,
            vocabulary_size=self.scorer.vocabulary_size,
        )
        if step.not_finite is not None:
            failed = step.not_finite.any(-1).tolist()
            self._not_finite += sum(failed)
            self._complain([request for request, one in zip(requests, failed, strict=True) if one])
        return step.scores

    def take_not_finite(self) -> int:
        """How many steps of requests went unguided since the last call, for rewards that are not finite."""
        found, self._not_finite = self._not_finite, 0
        return found

    def _rows_of(self, keys: Sequence[Hashable]) -> list[int]:
        """The rows of requests in the reward model's cache. Those that have none get one."""
        rows = []
        for key in keys:
            request = self._requests[key]
            if request.row is None:
                request.row = len(self._keys)
                self._keys.append(key)
            rows.append(request.row)
        return rows

    def _complain(self, requests: list[_Request]) -> None:
        """Logs the failure: an error would end the server for everybody, so these requests go on unguided."""
        if any(not request.failed for request in requests):
            logger.error(
                "The reward model gave %d of the requests a reward that is not finite. They follow the policy at this "
                "step. Check its weights, and load it in float32 or bfloat16.",
                len(requests),
            )
        for request in requests:
            request.failed = True
