"""Responses of a policy, steered or not, with what the report says about them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TopKLogitsWarper, set_seed

from rgtg_hf.evaluation.divergence import DivergenceRecorder, response_mask

__all__ = ["SampledResponses", "end_token_ids", "sample_responses"]

# generate() warns about settings of sampling where nothing is sampled.
_GREEDY: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def end_token_ids(policy: Any) -> list[int]:
    """The ids at which the policy's `generate()` ends a response; may be empty."""
    ending = policy.generation_config.eos_token_id
    return [] if ending is None else [ending] if isinstance(ending, int) else list(ending)


@dataclass(frozen=True)
class SampledResponses:
    """What one method wrote for a batch of prompts.

    Attributes:
        texts: One response per prompt, or several per prompt, those of a prompt next to each other.
        divergences: KL(pi || pi_LM) in nats, summed over each response's steps; zeros for the sampled policy.
        tokens: How many tokens the responses have together, end-of-sequence tokens included.
        seconds: Wall-clock seconds of the `generate()` call.
        ids: The token ids of each response, its end-of-sequence token included if it has one.
        log_likelihoods: log pi_LM(y | x) of each response under the unsteered policy, in nats.
        reward_model_tokens: Tokens that the reward model computed, prompts and padding included.
    """

    texts: list[str]
    divergences: list[float]
    tokens: int
    seconds: float
    ids: list[list[int]] = field(default_factory=list)
    log_likelihoods: list[float] = field(default_factory=list)
    reward_model_tokens: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Throughput of the whole batch."""
        return self.tokens / self.seconds


def sample_responses(
    policy: Any,
    tokenizer: Any,
    inputs: Mapping[str, Tensor],
    *,
    top_k: int,
    max_new_tokens: int,
    seed: int,
    processor: LogitsProcessor | None = None,
    greedy: bool = False,
    responses_per_prompt: int = 1,
) -> SampledResponses:
    """Samples responses at temperature 1 from the policy's `top_k` most likely tokens.

    Args:
        policy: A causal language model.
        tokenizer: Its tokenizer, for turning ids into text.
        inputs: Left-padded `input_ids` and `attention_mask`, each of shape `[batch, length]`.
        top_k: The number of candidates. A steering processor must be built with the same number, so that steered and
            unsteered responses are drawn from the same candidates.
        max_new_tokens: Tokens per response at most.
        seed: Set right before sampling; the same seed and no processor give the same responses.
        processor: The steering processor; None for the unsteered policy.
        greedy: Take the likeliest candidate instead of sampling.
        responses_per_prompt: How many.

    Returns:
        The responses with their divergences and the time they took.
    """
    eos_token_ids = end_token_ids(policy)
    recorder = DivergenceRecorder(TopKLogitsWarper(top_k) if processor is None else processor, greedy=greedy)
    set_seed(seed)
    start = time.perf_counter()
    with torch.inference_mode():
        output = policy.generate(
            **inputs,
            **(_GREEDY if greedy else {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": top_k}),
            max_new_tokens=max_new_tokens,
            num_return_sequences=responses_per_prompt,
            logits_processor=LogitsProcessorList([recorder]),
        )
    seconds = time.perf_counter() - start

    response_ids = output[:, inputs["input_ids"].shape[1] :]
    mask = response_mask(response_ids, eos_token_ids)
    return SampledResponses(
        texts=tokenizer.batch_decode(response_ids, skip_special_tokens=True),
        divergences=recorder.divergences(response_ids, eos_token_ids).tolist(),
        tokens=int(mask.sum()),
        seconds=seconds,
        ids=[row[kept].tolist() for row, kept in zip(response_ids, mask, strict=True)],
        log_likelihoods=recorder.log_likelihoods(response_ids, eos_token_ids).tolist(),
        reward_model_tokens=_reward_model_tokens(processor),
    )


def _reward_model_tokens(processor: Any) -> int:
    # A steering head computes none: it reads what the policy computes anyway.
    return getattr(getattr(processor, "stats", None), "reward_model_tokens", 0)
