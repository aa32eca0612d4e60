"""Which processor steers a call of `generate()`: one that reads candidates, or heads on what the policy computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor

from rgtg_hf.decoding.guidance import RewardGuidanceConfig
from rgtg_hf.decoding.hidden_capture import capture_hidden
from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
from rgtg_hf.decoding.steering import SteeringProcessor
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.scoring.combined import check_weights

__all__ = ["guidance_processor"]


@contextmanager
def guidance_processor(
    policy: Any,
    reward_model: Any,
    pad_token_id: int | None,
    eos_token_id: int | list[int] | None,
    attention_mask: Tensor | None,
    *,
    drafted: bool = False,
    reward_prompts: Any = None,
    guidance_config: RewardGuidanceConfig | None = None,
    policy_tokenizer: Any = None,
    reward_tokenizer: Any = None,
    weights: Sequence[float] | None = None,
    **settings: Any,
) -> Iterator[LogitsProcessor]:
    """Makes the processor for one call of `generate()`, which must be made inside the block.

    Steering heads on the policy are served by [`steering`][rgtg_hf.decoding.steering.steering], which costs nothing,
    wherever that can do what was asked for; everything else by
    [`RewardGuidedLogitsProcessor`][rgtg_hf.decoding.logits_processor.RewardGuidedLogitsProcessor], whose arguments
    these are.

    Args:
        policy: The model that generates. Heads are attached to it.
        reward_model: The reward model, or several.
        drafted: Whether the call decodes with drafted tokens, for which a policy's pass has no single last state.
        settings: Settings given to the call, which win over those of `guidance_config`.
    """
    if settings and isinstance(guidance_config, (RewardGuidanceConfig, type(None))):
        guidance_config = replace(guidance_config or RewardGuidanceConfig(), **settings)
    models = list(reward_model) if isinstance(reward_model, (list, tuple)) else [reward_model]
    heads = [model for model in models if isinstance(model, NextTokenRewardModel) and model.config.policy is not None]
    config = guidance_config or RewardGuidanceConfig()
    if heads and heads == models and not drafted and reward_prompts is None and _is_plain(config):
        if weights is not None and not isinstance(reward_model, (list, tuple)):
            raise ValueError(
                "`weights` goes with a list of reward models: pass `reward_model=[...]`, or scale `beta`."
            )
        betas = [config.beta * weight for weight in check_weights(weights, len(heads))]
        with capture_hidden(policy) as capture:
            yield SteeringProcessor(policy, list(zip(heads, betas, strict=True)), capture, config)
        return
    for head in heads:
        head.attach(policy)
    yield RewardGuidedLogitsProcessor(
        reward_model,
        guidance_config=guidance_config,
        attention_mask=attention_mask,
        pad_token_id=pad_token_id,
        eos_token_id=eos_token_id,
        reward_prompts=reward_prompts,
        tokenizer=policy_tokenizer,
        reward_tokenizer=reward_tokenizer,
        weights=weights,
    )


def _is_plain(config: RewardGuidanceConfig) -> bool:
    """Whether nothing is asked for that only a scorer does."""
    return isinstance(config, RewardGuidanceConfig) and config.min_entropy is None and config.scorer == "auto"
