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

__all__ = ["Penalties", "StepPenalties"]


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

        scores = torch.tensor([4.0, -1.0, 3.0])
        penalties = Penalties(repetition=2.0, presence=0.5).after([0], [1], scores)
        penalized = penalties.apply(scores)
        assert penalized.tolist() == [2.0, -2.5, 3.0]
        assert penalties.undo(penalized).tolist() == [4.0, -1.0, 3.0]
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

    def after(self, prompt: list[int], response: list[int], scores: Tensor) -> StepPenalties:
        """The penalties of the next step.

        Args:
            prompt: The token ids of the request's prompt.
            response: The token ids that followed so far.
            scores: Scores of the step, shape `[vocabulary]`; what counts is their size and device.
        """
        size, device = len(scores), scores.device
        written = torch.tensor(response, dtype=torch.long, device=device)
        counts = torch.bincount(written[written >= 0], minlength=size)[:size]
        present = counts > 0
        seen = present.clone()
        seen[torch.tensor(prompt, dtype=torch.long, device=device)] = True
        return StepPenalties(self.repetition, seen, self.frequency * counts + self.presence * present)


@dataclass(frozen=True)
class StepPenalties:
    """Penalties of one step.

    Args:
        repetition: As in [`Penalties`].
        seen: Which tokens were there, bool, shape `[vocabulary]`.
        taken: What is taken off each score, shape `[vocabulary]`.
    """

    repetition: float
    seen: Tensor
    taken: Tensor

    def apply(self, scores: Tensor) -> Tensor:
        """The scores with the penalties. Shape `[vocabulary]`, `-inf` where a token is ruled out; not changed."""
        scaled = torch.where(scores > 0, scores / self.repetition, scores * self.repetition)
        return torch.where(self.seen, scaled, scores) - self.taken

    def undo(self, scores: Tensor) -> Tensor:
        """The scores whose penalties give these scores."""
        scores = scores + self.taken
        scaled = torch.where(scores > 0, scores * self.repetition, scores / self.repetition)
        return torch.where(self.seen, scaled, scores)
