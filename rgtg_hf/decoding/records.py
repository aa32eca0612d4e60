"""Counts and records of what guidance did, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rgtg_hf.decoding.limits import divergence
from rgtg_hf.decoding.step import GuidedStep

__all__ = ["GuidanceStats", "StepRecord", "record_step"]


@dataclass(repr=False)
class StepRecord:
    """One step of a generation. Rows stand as `generate()` had them at that step.

    Attributes:
        length: Tokens before this step, prompt and padding included.
        candidate_ids: Shape `[rows, k]`.
        policy: Log-probabilities under the policy restricted to the candidates, shape `[rows, k]`.
        guided: Log-probabilities under the guided policy, shape `[rows, k]`; equal to `policy` where not guided.
        increments: r(x, y_<t v) - r(x, y_<t) of the candidates v, shape `[rows, k]`; NaN where none was computed.
        over: Rows that held an end token already: their tokens are not kept, shape `[rows]`, boolean.
    """

    length: int
    candidate_ids: Tensor
    policy: Tensor
    guided: Tensor
    increments: Tensor
    over: Tensor

    def __repr__(self) -> str:
        rows, candidates = self.candidate_ids.shape
        return f"StepRecord(length={self.length}, rows={rows}, candidates={candidates})"

    @property
    def kl(self) -> Tensor:
        """KL(guided ‖ policy) over the candidates, exact, in nats, shape `[rows]`."""
        return divergence(self.guided, self.policy)


@dataclass
class GuidanceStats:
    """The work of a processor since it was made or reset.

    Attributes:
        steps: Calls by `generate()`.
        steps_skipped: Calls at which the reward model had nothing to do: one candidate each, a policy sure of itself,
            `beta=0`, or rows that had ended.
        reward_model_tokens: Tokens that the reward model computed.
        records: One per step, if the processor was made with `collect_records=True`.
    """

    steps: int = 0
    steps_skipped: int = 0
    reward_model_tokens: int = 0
    records: list[StepRecord] = field(default_factory=list)

    def __repr__(self) -> str:
        # The records of a generation are tensors by the hundred.
        counts = f"steps_skipped={self.steps_skipped}, reward_model_tokens={self.reward_model_tokens}"
        return f"GuidanceStats(steps={self.steps}, {counts}, records=<{len(self.records)}>)"

    def kl(self) -> Tensor:
        """Divergence from the policy summed over the steps of each response, in nats, shape `[rows]`.

        For greedy decoding and sampling, in one generation; in beam search rows are not the same from step to step.

        Raises:
            ValueError: If there are no records.
        """
        self._require_records()
        return torch.stack([record.kl.masked_fill(record.over, 0.0) for record in self.records]).sum(0)

    def increments_of(self, sequences: Tensor) -> Tensor:
        """Increments of the tokens that were chosen, r(x, y_<=t) - r(x, y_<t); NaN where none was computed.

        Their sum over the steps is the reward that the response gained, r(x, y) - r(x). For greedy decoding and
        sampling, in one generation.

        Args:
            sequences: What `generate()` returned, shape `[rows, length]`.

        Returns:
            Shape `[rows, steps]`.

        Raises:
            ValueError: If there are no records.
        """
        self._require_records()
        columns = []
        for record in self.records:
            chosen = record.candidate_ids == sequences[:, record.length, None].to(record.candidate_ids.device)
            increment = record.increments.masked_fill(~chosen, 0.0).sum(-1)
            columns.append(increment.masked_fill(~chosen.any(-1), float("nan")))
        return torch.stack(columns, dim=1)

    def _require_records(self) -> None:
        if not self.records:
            raise ValueError(
                "There are no records: make the processor with `collect_records=True`, and call generate() first."
            )


def record_step(length: int, step: GuidedStep, over: Tensor) -> StepRecord:
    """Makes the record of a step; `length` and `over` are attributes of the record."""
    ids = step.candidates.ids
    increments = torch.full(ids.shape, float("nan"), device=ids.device)
    if step.increments is not None:
        increments = torch.where(step.wanted, step.increments, increments)
    policy = step.candidates.scores.float().masked_fill(~step.candidates.valid, float("-inf"))
    guided = step.scores.gather(1, ids).float().masked_fill(~step.candidates.valid, float("-inf"))
    return StepRecord(length, ids, policy.log_softmax(-1), guided.log_softmax(-1), increments, over)
