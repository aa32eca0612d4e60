"""What steering did, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rgtg_hf.decoding.guidance import Candidates, divergence
from rgtg_hf.scoring.scorer import CandidateRewards

__all__ = ["GuidanceStats", "StepRecord"]


@dataclass
class StepRecord:
    """One step of a generation. Rows stand as `generate()` had them at that step.

    Attributes:
        length: Tokens before this step, prompt and padding included.
        candidate_ids: Shape `[rows, k]`.
        policy: Log-probabilities under the policy restricted to the candidates, shape `[rows, k]`.
        guided: Log-probabilities under the guided policy, shape `[rows, k]`; equal to `policy` where not steered.
        rewards: Rewards of the candidates, shape `[rows, k]`; NaN where none was computed.
        base: Reward of the prefix, shape `[rows]`; NaN where none was computed.
        over: Rows that held an end token already: whatever is chosen for them is not kept, shape `[rows]`.
    """

    length: int
    candidate_ids: Tensor
    policy: Tensor
    guided: Tensor
    rewards: Tensor
    base: Tensor
    over: Tensor

    @property
    def kl(self) -> Tensor:
        """KL(guided ‖ policy) over the candidates, exact, in nats, shape `[rows]`."""
        return divergence(self.guided, self.policy)


@dataclass
class GuidanceStats:
    """What a processor has done since it was made or reset.

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

    def kl(self) -> Tensor:
        """Divergence from the policy summed over the steps of each response, in nats, shape `[rows]`.

        For greedy decoding and sampling, in one generation; in beam search rows are not the same from step to step.
        """
        return torch.stack([record.kl.masked_fill(record.over, 0.0) for record in self.records]).sum(0)

    def rewards_of(self, sequences: Tensor) -> Tensor:
        """Rewards of the tokens that were chosen, r(x, y_<=t), shape `[rows, steps]`; NaN where none was computed.

        For greedy decoding and sampling, in one generation.

        Args:
            sequences: What `generate()` returned, shape `[rows, length]`.
        """
        columns = []
        for record in self.records:
            chosen = record.candidate_ids == sequences[:, record.length, None].to(record.candidate_ids.device)
            columns.append(record.rewards.masked_fill(~chosen, 0.0).sum(-1).masked_fill(~chosen.any(-1), float("nan")))
        return torch.stack(columns, dim=1)


def record_step(
    length: int,
    candidates: Candidates,
    guided_scores: Tensor,
    over: Tensor,
    wanted: Tensor,
    rewards: CandidateRewards | None = None,
) -> StepRecord:
    """Makes the record of a step; `wanted` tells which of the `rewards` were asked for, shape `[rows, k]`."""
    all_rewards = torch.full(candidates.ids.shape, float("nan"), device=candidates.ids.device)
    base = all_rewards[:, 0].clone()
    if rewards is not None:
        all_rewards = torch.where(wanted, rewards.candidates, all_rewards)
        base = torch.where(wanted.any(-1), rewards.base, base)
    policy = candidates.scores.float().masked_fill(~candidates.valid, float("-inf"))
    return StepRecord(
        length,
        candidates.ids,
        policy.log_softmax(-1),
        guided_scores.gather(1, candidates.ids).float().log_softmax(-1),
        all_rewards,
        base,
        over,
    )
