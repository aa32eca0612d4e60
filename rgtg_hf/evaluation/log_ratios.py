"""Records how much likelier the guided policy finds each token of its responses than the policy does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from rgtg_hf.evaluation.divergence import over_candidates

__all__ = ["RatioRecorder"]


class RatioRecorder(LogitsProcessor):
    """Runs a logits processor and records log pi_LM(v) - log pi(v) of every candidate v at every step.

    The exponential of a sum of these over tokens is the importance weight that turns an expectation under the guided
    policy pi into one under the policy pi_LM, restricted to the same candidates. Use a new recorder for each call of
    `generate()`, in sampling or greedy decoding.

    Args:
        processor: The processor that guides.

    Example:
        ```python
        import torch
        from transformers import TopKLogitsWarper
        from rgtg_hf.evaluation.log_ratios import RatioRecorder

        recorder = RatioRecorder(TopKLogitsWarper(2))
        recorder(torch.tensor([[1]]), torch.tensor([[0.0, 1.0, 2.0]]))
        assert recorder.log_ratios([[2]]) == [[0.0]]  # the same candidates, and nothing else has changed
        ```
    """

    def __init__(self, processor: LogitsProcessor) -> None:
        self.processor = processor
        self._steps: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Runs the processor on `scores` of shape `[batch, vocabulary]` and returns what it returned."""
        guided = self.processor(input_ids, scores)
        log_guided, log_policy, ids = over_candidates(guided, scores)
        self._steps.append((log_policy - log_guided, ids))
        return guided

    def log_ratios(self, responses: Sequence[list[int]]) -> list[list[float]]:
        """The ratio of each token that was written.

        Args:
            responses: The ids of each row's response, an end token included.

        Returns:
            One number for each token.

        Raises:
            ValueError: If a token was no candidate at its step, so that these are not the responses of the call.
        """
        # Copied now, because a copy at every step would have had the device wait.
        self._steps = [(ratios.cpu(), ids.cpu()) for ratios, ids in self._steps]
        return [
            [self._ratio(step, row, token) for step, token in enumerate(response)]
            for row, response in enumerate(responses)
        ]

    def _ratio(self, step: int, row: int, token: int) -> float:
        ratios, ids = self._steps[step]
        found = ratios[row][ids[row] == token]
        if not len(found):
            raise ValueError(f"At step {step + 1}, token {token} of row {row + 1} is none of its candidates.")
        return float(found[0])
