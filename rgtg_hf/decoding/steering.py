"""Steering heads inside `generate()`, on the hidden states that the policy computes anyway.

    pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · exp( sum over heads i of beta_i · [d_i(h) · e_v] )      v a candidate

A head's increments are d_i(h) · e_v, so any number of heads is one direction, the sum of beta_i · d_i(h), and k short
dot products per row: very little next to a policy's step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from rgtg_hf.arguments import check_number, own_number
from rgtg_hf.config import ResolvedGuidance, RewardGuidanceConfig, RewardModelSource, resolve_guidance
from rgtg_hf.decoding.hidden_capture import HiddenCapture, capture_hidden
from rgtg_hf.decoding.step import guide_step, raise_if_not_finite
from rgtg_hf.rewards.model_state import evaluating
from rgtg_hf.rewards.named import is_name, load_for_policy
from rgtg_hf.rewards.next_token import NextTokenRewardModel, check_heads
from rgtg_hf.rewards.policy_identity import output_embedding
from rgtg_hf.rewards.source import describe_reward_model, source_of
from rgtg_hf.rewards.token_head import token_increments

__all__ = ["SteeringProcessor", "steering"]

Beta = float | Tensor
Head = NextTokenRewardModel | str | Path


@contextmanager
def steering(
    policy: PreTrainedModel,
    heads: Sequence[Head | tuple[Head, Beta | None]],
    *,
    guidance_config: RewardGuidanceConfig | ResolvedGuidance | None = None,
    **settings: Any,
) -> Iterator[SteeringProcessor]:
    """Steers a policy with one or several heads, on the hidden states that `generate()` computes anyway.

    Any number of `generate()` calls can be made in the block. Greedy decoding, sampling and beam search work, with
    padded batches too; decoding with drafted tokens is refused.

    Args:
        policy: The policy. For the length of the block its decoder has a forward hook, and its embedding and output
            layer note what a compiled pass reads. A compiled policy is steered in one thread at a time.
        heads: Steering heads, each alone or with its beta, in nats per unit of reward: a number, or a tensor with one
            value per prompt of the batch. Negative steers away. A head without a beta uses `beta` of
            `guidance_config`, or of the policy's `generation_config`, or of its own `guidance_config.json`, or 1.
            Heads are attached to the policy if they are not yet. The folder or the hub name of a head can stand in
            its place; it is loaded once per policy.
        guidance_config: Settings as an object. Arguments win over it.
        settings: Settings of [`RewardGuidanceConfig`][rgtg_hf.config.RewardGuidanceConfig] besides `beta`: `top_k`,
            `top_p`, `min_p`, `min_entropy`, `max_increment`, `max_step_kl`. What is unset comes from the
            `guidance_config.json` of the head, if there is one head. `top_k=0`, the whole vocabulary, costs another
            product with the output embedding.

    Yields:
        The processor for `generate(..., logits_processor=[processor])`. Its `betas` may be changed between calls.

    Raises:
        TypeError: If the policy is not a causal LM, `heads` holds something else than heads and pairs of a head and
            its beta, or a setting has another type.
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
    output_embedding(policy)  # which says so if this is not a policy
    if "beta" in settings:
        raise TypeError("Give each head its own beta: steering(policy, [(head, beta), ...]).")
    given: Any = heads
    if isinstance(heads, (list, tuple)):
        given = [_with_beta(policy, head) for head in heads]
    check_heads(given)

    def resolved(settings: dict[str, Any], source: RewardModelSource | None) -> Any:
        return resolve_guidance(settings, guidance_config, source, getattr(policy, "generation_config", None)).config

    pairs = [(head, resolved({}, source_of(head)).beta if beta is None else beta) for head, beta in given]
    first = 1.0 if isinstance(pairs[0][1], Tensor) else pairs[0][1]
    config = resolved(settings | {"beta": first}, source_of(pairs[0][0]) if len(pairs) == 1 else None)
    with capture_hidden(policy) as capture:
        yield SteeringProcessor(policy, pairs, capture, config)


class SteeringProcessor(LogitsProcessor):
    """The logits processor of [`steering`][rgtg_hf.decoding.steering.steering], which makes it.

    It keeps nothing from one step to the next, so it serves any number of generations.

    Args:
        policy: The policy.
        heads: Heads with their betas.
        capture: Where the policy's hidden states come from.
        config: The resolved settings. The betas of the heads stand in place of its own.

    Attributes:
        config: The settings.
        betas: The strength of each head, in the order given. Assign a list to change them between calls.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        policy: PreTrainedModel,
        heads: Sequence[tuple[NextTokenRewardModel, Beta]],
        capture: HiddenCapture,
        config: RewardGuidanceConfig,
    ) -> None:
        check_heads(heads)
        self.config = config
        self._policy = policy
        self.betas = [beta for _, beta in heads]
        self.heads = [head.attach(policy) for head, _ in heads]
        self._embeddings: Tensor = policy.get_output_embeddings().weight  # type: ignore[union-attr, assignment]
        self._capture = capture

    def __repr__(self) -> str:
        betas = (beta.flatten().tolist() if isinstance(beta, Tensor) else beta for beta in self.betas)
        heads = (f"({describe_reward_model(head)}, {beta})" for head, beta in zip(self.heads, betas, strict=True))
        return f"SteeringProcessor([{', '.join(heads)}], top_k={self.config.top_k})"

    def __deepcopy__(self, memo: dict[int, Any]) -> SteeringProcessor:
        """A processor on the same policy, in the same block, with betas of its own."""
        heads = list(zip(self.heads, self.betas, strict=True))
        return SteeringProcessor(self._policy, heads, self._capture, replace(self.config))

    def __reduce__(self) -> Any:
        raise TypeError(
            "A processor of steering() cannot be pickled: it reads the passes of a policy in this process. Call "
            "steering(policy, heads) where the policy is."
        )

    @property
    def betas(self) -> list[Beta]:
        """The strength of each head."""
        return list(self._betas)

    @betas.setter
    def betas(self, betas: Sequence[Beta]) -> None:
        self._betas = tuple(_checked_beta(beta) for beta in betas)
        first, *others = self._betas
        if others and (any(isinstance(beta, Tensor) for beta in self._betas) or first == 0):
            is_on = any(bool(beta.any()) if isinstance(beta, Tensor) else beta != 0 for beta in self._betas)
            self._step_beta: Beta = float(is_on)
        else:
            self._step_beta = first

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Steers one step.

        Args:
            input_ids: Prompts and the tokens generated so far, shape `[rows, length]`.
            scores: The policy's scores of the next token, shape `[rows, vocabulary]`. Not changed.

        Returns:
            The steered scores, `-inf` for all but the candidates, shape `[rows, vocabulary]`.

        Raises:
            ValueError: If a tensor of betas does not fit the batch, or the policy has not just read these prefixes.
            FloatingPointError: If a head gives a reward that is not finite.
        """
        passes = self._capture.take(input_ids)
        # A step has one beta. Where there are several heads, they are in proportion to the first.
        self._betas = tuple(_on(scores.device, beta) for beta in self._betas)
        self._step_beta = _on(scores.device, self._step_beta)
        config = copy(self.config)
        config.beta = _per_row(self._step_beta, len(scores), scores.device)  # type: ignore[assignment]
        hidden = torch.empty(0)

        def look(others: Tensor) -> list[int]:
            nonlocal hidden
            values = torch.cat([others, passes.ends]).tolist()
            hidden = passes.hidden(values[len(others) :])
            return values[: len(others)]

        def score(candidate_ids: Tensor, wanted: Tensor) -> Tensor:
            weights = [1.0] if len(self.heads) == 1 else [beta / self._step_beta for beta in self._betas]
            weights = [_per_row(weight, len(scores), hidden.device) for weight in weights]
            with evaluating(self.heads):
                pairs = zip(self.heads, weights, strict=True)
                direction = sum(weight * head.score.directions(hidden) for head, weight in pairs)
            ids = candidate_ids.to(hidden.device)
            return token_increments(direction, ids, self._embeddings).to(scores.device)  # type: ignore[arg-type]

        step = guide_step(
            scores,
            config,
            score,
            vocabulary_size=len(self._embeddings),
            compare_paths=True,
            look=look,
        )
        raise_if_not_finite(step, self.betas, input_ids.shape[1])
        return step.scores


def _with_beta(policy: PreTrainedModel, head: Any) -> Any:
    """A head and its beta, `None` where there is none. A name becomes the head that it names."""
    if isinstance(head, NextTokenRewardModel) or is_name(head):
        head = (head, None)
    if isinstance(head, (list, tuple)) and len(head) == 2 and is_name(head[0]):
        head = (load_for_policy(policy, head[0]).reward_model, head[1])
    return head


def _checked_beta(beta: Any) -> Beta:
    if not isinstance(beta, Tensor):
        beta = own_number(beta)
        check_number("beta", beta)
        return beta
    if beta.is_complex() or beta.dtype == torch.bool:
        raise TypeError(f"`beta` is a tensor of {beta.dtype}, but real numbers are required.")
    if beta.dim() > 1 or not beta.numel():
        raise ValueError(
            f"`beta` has shape {tuple(beta.shape)}, but one value per prompt of the batch is required, or a number."
        )
    if not bool(torch.isfinite(beta).all()):
        raise ValueError(f"`beta` is {beta}, but finite numbers are required.")
    return beta.float().reshape(-1, 1)


def _on(device: torch.device, beta: Beta) -> Beta:
    return beta.to(device) if isinstance(beta, Tensor) else beta


def _per_row(beta: Beta, rows: int, device: torch.device) -> Beta:
    """A number, or a column of betas, shape `[rows, 1]`. Rows that share a prompt stand together, as beams do."""
    if not isinstance(beta, Tensor) or len(beta) == 1:
        return _on(device, beta)
    if rows % len(beta):
        raise ValueError(
            f"`beta` has {len(beta)} values, but generate() runs {rows} rows: give one number, or one value per "
            "prompt of the batch."
        )
    return beta.to(device).repeat_interleave(rows // len(beta), dim=0)
