"""What the scorers of whole texts share: each distinct text is scored once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import device as Device

from rgtg_hf.scoring.policy_text import StepTexts, Text
from rgtg_hf.scoring.scorer import CandidateRewards

__all__ = ["DistinctTexts"]


class DistinctTexts:
    """Scores the distinct texts of a step, and remembers them for the next one: its base was a candidate before.

    Args:
        score: Gives the rewards of prompts and responses, one each.
    """

    def __init__(self, score: Callable[[list[str], list[str]], list[float]]):
        self._score = score
        self._known: dict[tuple[str, str], float] = {}

    def score(self, step: StepTexts, device: Device) -> CandidateRewards:
        """The rewards of a step. The end of a response has no text."""
        base = [_as_pair(text) for text in step.base]
        candidates = [[_as_pair(text) for text in row] for row in step.candidates]
        wanted = dict.fromkeys([*base, *(pair for row in candidates for pair in row)])
        new = [pair for pair in wanted if pair not in self._known]
        if new:
            prompts, responses = (list(part) for part in zip(*new, strict=True))
            self._known |= zip(new, self._score(prompts, responses), strict=True)
        self._known = {pair: self._known[pair] for pair in wanted}
        return CandidateRewards(
            torch.tensor([[self._known[pair] for pair in row] for row in candidates], device=device),
            torch.tensor([self._known[pair] for pair in base], device=device),
        )

    def reset(self) -> None:
        """Forgets the last step."""
        self._known = {}


def _as_pair(text: Text) -> tuple[str, str]:
    return text.prompt, text.join()
