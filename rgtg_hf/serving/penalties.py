"""Penalties for tokens that were there before, which must be on the policy's scores before candidates are chosen.

An engine that applies them after the guidance would see the few candidates alone, and their rewards in the scores: a
repetition penalty would scale the reward with the score, and a token that the penalty should bring in would no longer
be there. So they are applied before, and taken back after, and what the engine does then gives the guided scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Penalties"]


@dataclass(frozen=True)
class Penalties:
    """The penalties of a request.

    Args:
        repetition: Divides the scores above 0, and multiplies the others, of all tokens of prompt and response.
        frequency: What each occurrence of a token in the response takes off its score.
        presence: What is taken off the score of a token that the response has.

    Example:
        ```python
        import torch
        from rgtg_hf.serving.penalties import Penalties

        penalties, scores = Penalties(repetition=2.0, presence=0.5), torch.tensor([4.0, -1.0, 3.0])
        penalized = penalties.apply(scores, prompt=[0], response=[1])
        assert penalized.tolist() == [2.0, -2.5, 3.0]
        assert penalties.undo(penalized, prompt=[0], response=[1]).tolist() == [4.0, -1.0, 3.0]
        ```
    """

    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0

    @classmethod
    def of(cls, sampling_params: Any) -> Penalties | None:
        """The penalties that a request of vLLM asks for, if any."""
        found = cls(
            sampling_params.repetition_penalty, sampling_params.frequency_penalty, sampling_params.presence_penalty
        )
        return None if found == cls() else found

    def apply(self, scores: Tensor, prompt: list[int], response: list[int]) -> Tensor:
        """The scores with the penalties.

        Args:
            scores: Of one request, `-inf` where a token is ruled out, shape `[vocabulary]`. Not changed.
            prompt: Its token ids.
            response: The token ids that followed so far.

        Returns:
            Shape `[vocabulary]`.
        """
        seen, taken = self._effects(scores, prompt, response)
        scaled = torch.where(scores > 0, scores / self.repetition, scores * self.repetition)
        return torch.where(seen, scaled, scores) - taken

    def undo(self, scores: Tensor, prompt: list[int], response: list[int]) -> Tensor:
        """The scores whose penalties give these scores. The arguments are those of [`apply`]."""
        seen, taken = self._effects(scores, prompt, response)
        scores = scores + taken
        scaled = torch.where(scores > 0, scores * self.repetition, scores / self.repetition)
        return torch.where(seen, scaled, scores)

    def _effects(self, scores: Tensor, prompt: list[int], response: list[int]) -> tuple[Tensor, Tensor]:
        """Which tokens were there, and what is taken off each score, both of shape `[vocabulary]`."""
        size, device = len(scores), scores.device
        written = torch.tensor(response, dtype=torch.long, device=device)
        counts = torch.bincount(written[written >= 0], minlength=size)[:size]
        seen = counts > 0
        taken = self.frequency * counts + self.presence * seen
        read = torch.zeros(size, dtype=torch.bool, device=device)
        read[torch.tensor(prompt, dtype=torch.long, device=device)] = True
        return seen | read, taken
