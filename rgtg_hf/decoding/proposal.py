"""The proposal of a search: the processors by which its rows are sampled within their blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from rgtg_hf.config import RewardGuidanceConfig
from rgtg_hf.decoding.step import keep_candidates, select_candidates

__all__ = ["CandidateFilter", "Proposal"]


class CandidateFilter(LogitsProcessor):
    """Restricts the policy to its candidates: the proposal of a search that is not guided within its blocks.

    Args:
        config: The resolved settings.
        vocabulary_size: How many token ids the reward model can read.
    """

    def __init__(self, config: RewardGuidanceConfig, vocabulary_size: int | None):
        self.config, self.vocabulary_size = config, vocabulary_size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """The scores, `-inf` for all but the candidates."""
        candidates = select_candidates(scores, self.config, self.vocabulary_size)
        return keep_candidates(scores, candidates, self.vocabulary_size)


class Proposal(LogitsProcessor):
    """Runs the processors of a guided proposal, and measures how far it is from the unguided one.

    The unguided one is the policy under the other processors, over the tokens that the proposal can choose.
    """

    def __init__(self, processors: LogitsProcessorList, guides: Sequence[LogitsProcessor]):
        self.guided = processors
        self.plain = LogitsProcessorList([one for one in processors if one not in guides])
        self._last: Tensor | None = None
        self._ratios: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """The guided scores, shape `[rows, vocabulary]`."""
        self._note(input_ids)
        guided = self.guided(input_ids, scores.clone())  # type: ignore[arg-type]
        plain = self.plain(input_ids, scores.clone())  # type: ignore[arg-type]
        plain = plain.masked_fill(guided == float("-inf"), float("-inf"))
        self._last = plain.log_softmax(-1) - guided.log_softmax(-1)
        return guided

    def _note(self, input_ids: Tensor) -> None:
        if self._last is not None:
            self._ratios.append(self._last.gather(1, input_ids[:, -1:])[:, 0])
        self._last = None

    def log_ratios(self, input_ids: Tensor) -> list[list[float]]:
        """log policy(v) - log proposal(v) of the tokens of the block that was just written, a list for each row."""
        self._note(input_ids)
        ratios = torch.stack(self._ratios, dim=1).tolist()
        self._ratios = []
        return ratios
