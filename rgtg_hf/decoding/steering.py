"""Steering heads inside `generate()`, on the hidden states that the policy computes anyway.

    pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · exp( sum over heads i of beta_i · A_i(h, v) )    v among the candidates

A head's advantages are d_i(h) · e_v, so any number of heads is one direction, the sum of beta_i · d_i(h), and k short
dot products per row: next to a policy's step, nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from rgtg_hf.arguments import check_number
from rgtg_hf.decoding.guards import limit_divergence, limit_increments
from rgtg_hf.decoding.guidance import RewardGuidanceConfig, guide, keep_candidates, select_candidates
from rgtg_hf.decoding.hidden_capture import HiddenCapture, capture_hidden
from rgtg_hf.rewards.next_token import NextTokenRewardModel, check_heads
from rgtg_hf.rewards.policy_identity import output_embedding
from rgtg_hf.rewards.token_head import advantages_of

__all__ = ["SteeringProcessor", "steering"]

Beta = float | Tensor


@contextmanager
def steering(
    policy: PreTrainedModel,
    heads: Sequence[tuple[NextTokenRewardModel, Beta]],
    *,
    top_k: int | None = 10,
    top_p: float | None = None,
    min_p: float | None = None,
    max_increment: float | None = None,
    max_step_kl: float | None = None,
) -> Iterator[SteeringProcessor]:
    """Steers a policy with one or several heads, on the hidden states that `generate()` computes anyway.

    Any number of `generate()` calls can be made in the block. Greedy decoding, sampling and beam search are served,
    padded batches too; decoding with drafted tokens is refused.

    Args:
        policy: The policy. Its decoder has a forward hook for the length of the block.
        heads: Steering heads and the strength of each, beta in nats per unit of reward: a number, or a tensor with one
            value per prompt of the batch. Negative steers away. Heads are attached to the policy if they are not yet.
        top_k: Candidates per row and step, the policy's likeliest; `None` for the whole vocabulary, which costs
            another product with the output embedding.
        top_p: As in [`RewardGuidanceConfig`][rgtg_hf.decoding.guidance.RewardGuidanceConfig]; also `min_p`.
        max_increment: The most, in nats, that steering may add to a candidate's score or take from it. No limit by
            default.
        max_step_kl: The most divergence from the policy, in nats, that a step may have; where steering would move it
            further, all betas are scaled down for this step and row. No limit by default.

    Yields:
        The processor for `generate(..., logits_processor=[processor])`. Its `betas` may be changed between calls.

    Raises:
        TypeError: If the policy is no causal LM, `heads` holds something else than pairs of a head and its beta, or
            a setting is of another type.
        ValueError: If there is no head, a head belongs to another policy, or a setting is out of range.

    Example:
        ```python
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM
        from rgtg_hf import NextTokenRewardModel, steering

        policy = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32,
                                              num_hidden_layers=1, num_attention_heads=2))
        kind = NextTokenRewardModel.from_policy(policy, rank=4)
        formal = NextTokenRewardModel.from_policy(policy, rank=4)
        with steering(policy, [(kind, 1.5), (formal, -0.5)]) as processor:
            policy.generate(torch.tensor([[5, 6, 7]]), logits_processor=[processor], max_new_tokens=4)
        ```
    """
    output_embedding(policy)  # which says so if this is no policy
    with capture_hidden(policy) as capture:
        config = RewardGuidanceConfig(top_k=top_k, top_p=top_p, min_p=min_p)
        yield SteeringProcessor(policy, heads, capture, config, max_increment, max_step_kl)


class SteeringProcessor(LogitsProcessor):
    """The logits processor of [`steering`][rgtg_hf.decoding.steering.steering], which makes it.

    It keeps nothing from one step to the next, so it serves any number of generations.

    Args:
        policy: The policy.
        heads: Heads with their betas.
        capture: Where the policy's hidden states come from.
        config: The filters of candidates.
        max_increment: The most that a candidate's score may change, in nats.
        max_step_kl: The most divergence of a step, in nats.

    Attributes:
        betas: The strength of each head, in the order given; assign to change it between calls.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        policy: PreTrainedModel,
        heads: Sequence[tuple[NextTokenRewardModel, Beta]],
        capture: HiddenCapture,
        config: RewardGuidanceConfig,
        max_increment: float | None = None,
        max_step_kl: float | None = None,
    ) -> None:
        check_heads(heads)
        for _, beta in heads:
            _check_beta(beta)
        for name, value in (("max_increment", max_increment), ("max_step_kl", max_step_kl)):
            if value is not None:
                check_number(name, value)
                if value <= 0:
                    raise ValueError(f"`{name}` is {value}, but a number of nats above 0 is required, or None.")
        self.heads = [head.attach(policy).eval() for head, _ in heads]
        self.betas: list[Beta] = [beta for _, beta in heads]
        self.config = config
        self.max_increment = max_increment
        self.max_step_kl = max_step_kl
        self._embeddings: Tensor = policy.get_output_embeddings().weight  # type: ignore[union-attr, assignment]
        self._capture = capture

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Steers one step.

        Args:
            input_ids: Prompts and what was generated so far, shape `[rows, length]`.
            scores: The policy's scores of the next token, shape `[rows, vocabulary]`. Not changed.

        Returns:
            The steered scores, `-inf` for all but the candidates, shape `[rows, vocabulary]`.

        Raises:
            ValueError: If a tensor of betas does not fit the batch, or the policy has not just read these prefixes.
            FloatingPointError: If a head gives a reward that is not finite.
        """
        hidden = self._capture.take(input_ids)
        candidates = select_candidates(scores, self.config)
        betas = [_per_row(beta, len(scores), hidden) for beta in self.betas]
        if not any(bool(beta.any()) for beta in betas):
            return keep_candidates(scores, candidates)
        direction = sum(beta * head.score.directions(hidden) for head, beta in zip(self.heads, betas, strict=True))
        increments = advantages_of(direction, candidates.ids.to(hidden.device), self._embeddings).to(scores.device)
        if not bool(torch.isfinite(increments).all()):
            raise FloatingPointError(
                f"A steering head gave a reward that is not finite, or its `beta` makes it so, after "
                f"{input_ids.shape[1]} tokens: check its weights, load the policy in float32 or bfloat16, and keep "
                "betas of ordinary size."
            )
        if self.max_increment is not None:
            increments = limit_increments(increments, self.max_increment)
        if self.max_step_kl is not None:
            increments = limit_divergence(
                candidates.scores.masked_fill(~candidates.valid, float("-inf")), increments, self.max_step_kl
            )
        return guide(scores, candidates, increments, torch.zeros_like(increments[:, 0]), beta=1.0)


def _check_beta(beta: Beta) -> None:
    if not isinstance(beta, Tensor):
        return check_number("beta", beta)
    if beta.is_complex() or beta.dtype == torch.bool:
        raise TypeError(f"`beta` is a tensor of {beta.dtype}, but real numbers are required.")
    if beta.dim() > 1 or not beta.numel():
        raise ValueError(
            f"`beta` has shape {tuple(beta.shape)}, but one value per prompt of the batch is required, or a number."
        )
    return None


def _per_row(beta: Beta, rows: int, hidden: Tensor) -> Tensor:
    """A column of betas, shape `[rows, 1]` (or `[1, 1]`). Rows that share a prompt stand together, as beams do."""
    _check_beta(beta)  # they may be changed between calls
    values = torch.as_tensor(beta, dtype=torch.float32, device=hidden.device).reshape(-1, 1)
    if len(values) > 1 and rows % len(values):
        raise ValueError(
            f"`beta` has {len(values)} values, but generate() runs {rows} rows: give one number, or one value per "
            "prompt of the batch."
        )
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"`beta` is {beta}, but finite numbers are required.")
    return values if len(values) == 1 else values.repeat_interleave(rows // len(values), dim=0)
