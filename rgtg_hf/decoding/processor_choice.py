"""The choice of a processor for one call of `generate()`: one that reads candidates, or heads on the policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor

from rgtg_hf.config import ResolvedGuidance
from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
from rgtg_hf.decoding.steering import steering
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.scoring.combined import check_weights

__all__ = ["guidance_processor"]


@contextmanager
def guidance_processor(
    policy: Any,
    reward_model: Any,
    *,
    drafted: bool = False,
    attention_mask: Tensor | None = None,
    reward_prompts: Any = None,
    weights: Sequence[float] | None = None,
    guidance_config: ResolvedGuidance,
    pad_token_id: int | None = None,
    eos_token_id: int | list[int] | None = None,
    tokenizer: Any = None,
    reward_tokenizer: Any = None,
    use_cuda_graph: bool = False,
) -> Iterator[LogitsProcessor]:
    """Makes the processor for calls of `generate()` inside the block.

    Steering heads on the policy are served by [`steering`][rgtg_hf.decoding.steering.steering], which costs next to
    nothing, wherever it can do what was asked for; everything else by
    [`RewardGuidedLogitsProcessor`][rgtg_hf.decoding.logits_processor.RewardGuidedLogitsProcessor], whose arguments
    these are.

    Args:
        policy: The model that generates. Heads are attached to it.
        reward_model: The reward model, or several.
        drafted: Whether tokens are drafted, as in assisted decoding, so that a pass of the policy has no single last
            state.
        guidance_config: The resolved settings of the call.
        attention_mask: See `RewardGuidedLogitsProcessor`, as for all others.

    Yields:
        The processor.
    """
    several = isinstance(reward_model, (list, tuple))
    models = list(reward_model) if several else [reward_model]
    heads = [model for model in models if isinstance(model, NextTokenRewardModel) and model.config.policy is not None]
    if heads and len(heads) == len(models) and not drafted and reward_prompts is None:
        config = guidance_config.config
        if config.scorer == "auto":  # any other one reads the prefixes by itself
            if weights is not None and not several:
                raise ValueError(
                    "`weights` goes with a list of reward models: pass `reward_model=[...]`, or scale `beta`."
                )
            betas = [config.beta * weight for weight in check_weights(weights, len(heads))]  # type: ignore[operator]
            with steering(policy, list(zip(heads, betas, strict=True)), guidance_config=guidance_config) as processor:
                yield processor
            return
    for head in heads:
        head.attach(policy)
    yield RewardGuidedLogitsProcessor(
        reward_model,
        attention_mask=attention_mask,
        reward_prompts=reward_prompts,
        weights=weights,
        guidance_config=guidance_config,
        pad_token_id=pad_token_id,
        eos_token_id=eos_token_id,
        tokenizer=tokenizer,
        reward_tokenizer=reward_tokenizer,
        use_cuda_graph=use_cuda_graph,
    )
