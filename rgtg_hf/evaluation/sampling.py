"""Samples responses of a policy, guided or unguided, with their divergence, likelihood and cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    TopKLogitsWarper,
    set_seed,
)

from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.evaluation.divergence import DivergenceRecorder, response_mask
from rgtg_hf.rewards.prompt_cache import shared_cache

__all__ = ["SampledResponses", "end_token_ids", "prompt_cache", "sample_ids", "sample_responses"]

# generate() warns about sampling settings in greedy decoding.
_GREEDY: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def end_token_ids(policy: Any) -> list[int]:
    """The ids at which `generate()` ends a response of the policy; may be empty."""
    ending = policy.generation_config.eos_token_id
    return [] if ending is None else [ending] if isinstance(ending, int) else list(ending)


@dataclass(frozen=True)
class SampledResponses:
    """The responses of one method to a batch of prompts.

    Attributes:
        texts: One or several responses per prompt, grouped by prompt.
        divergences: KL(pi || pi_LM) in nats, summed over the steps of each response; zeros for the sampled policy.
        tokens: Total number of tokens in the responses, including end-of-sequence tokens.
        seconds: Wall-clock seconds of the `generate()` call.
        ids: The token ids of each response, including its end-of-sequence token if it has one.
        log_likelihoods: log pi_LM(y | x) of each response under the unguided policy, in nats.
        reward_model_tokens: Tokens that the reward model computed, including prompts and padding.
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
        """Generated tokens per second of the whole batch."""
        return self.tokens / self.seconds


def sample_responses(
    policy: Any,
    tokenizer: Any,
    inputs: Mapping[str, Tensor],
    *,
    top_k: int,
    processor: LogitsProcessor | None = None,
    greedy: bool = False,
    **settings: Any,
) -> SampledResponses:
    """Samples responses as [`sample_ids`] does, and measures them.

    Args:
        policy: A causal language model.
        tokenizer: Its tokenizer.
        inputs: Left-padded `input_ids` and `attention_mask`, each of shape `[batch, length]`.
        top_k: Number of candidates.
        processor: The processor that guides; None for the unguided policy.
        greedy: Whether to take the most likely candidate instead of sampling.
        **settings: Of [`sample_ids`]: `max_new_tokens`, `seed`, and others.

    Returns:
        The responses with their divergences and their time.
    """
    recorder = DivergenceRecorder(TopKLogitsWarper(top_k) if processor is None else processor, greedy=greedy)
    start = time.perf_counter()
    response_ids = sample_ids(policy, inputs, top_k=top_k, processor=recorder, greedy=greedy, **settings)
    seconds = time.perf_counter() - start
    eos_token_ids = end_token_ids(policy)
    mask = response_mask(response_ids, eos_token_ids)
    return SampledResponses(
        texts=tokenizer.batch_decode(response_ids, skip_special_tokens=True),
        divergences=recorder.divergences(response_ids, eos_token_ids).tolist(),
        tokens=int(mask.sum()),
        seconds=seconds,
        ids=kept_ids(response_ids, mask),
        log_likelihoods=recorder.log_likelihoods(response_ids, eos_token_ids).tolist(),
        reward_model_tokens=_reward_model_tokens(processor),
    )


@torch.inference_mode()
def sample_ids(
    policy: Any,
    inputs: Mapping[str, Tensor],
    *,
    top_k: int,
    max_new_tokens: int,
    seed: int,
    processor: LogitsProcessor | None = None,
    greedy: bool = False,
    responses_per_prompt: int = 1,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Samples responses at temperature 1 from the policy's `top_k` most likely tokens.

    Args:
        policy: A causal language model.
        inputs: Left-padded `input_ids` and `attention_mask`, each of shape `[batch, length]`.
        top_k: Number of candidates. Build the processor with the same number, so that guided and unguided responses
            are drawn from the same candidates.
        max_new_tokens: Largest number of tokens per response.
        seed: Seed, set right before sampling.
        processor: The processor that guides; None for the unguided policy.
        greedy: Whether to take the most likely candidate instead of sampling.
        responses_per_prompt: Number of responses to each prompt.
        on_step: Called after every step, to show progress.

    Returns:
        The ids of the responses without their prompts, padded after their ends, of shape
        `[batch * responses_per_prompt, steps]`.
    """
    set_seed(seed)
    output = policy.generate(
        **_repeat(policy, inputs, responses_per_prompt),
        **(_GREEDY if greedy else {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": top_k}),
        max_new_tokens=max_new_tokens,
        logits_processor=LogitsProcessorList([] if processor is None else [processor]),
        stopping_criteria=[] if on_step is None else [_Tell(on_step)],
    )
    return output[:, inputs["input_ids"].shape[1] :]


@torch.inference_mode()
def prompt_cache(policy: Any, inputs: Mapping[str, Tensor]) -> dict[str, DynamicCache]:
    """Reads all but the last token of each prompt, for several calls of `generate()` or several rows of one.

    Args:
        policy: A causal language model.
        inputs: Left-padded `input_ids` and `attention_mask`, each of shape `[batch, length]`.

    Returns:
        The cache under the name by which `generate()` takes it. Nothing for models with recurrent layers, some of
        which keep their state elsewhere, for a policy that keeps another kind of cache, and for prompts of one token.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if int(mask.sum(-1).min()) < 2:
        return {}
    settings = _GREEDY | {"max_new_tokens": 1, "return_dict_in_generate": True}
    read = partial(policy.generate, input_ids=ids[:, :-1], attention_mask=mask[:, :-1], **settings)
    return shared_cache(policy, ids.shape[1] - 1, read)


def _repeat(policy: Any, inputs: Mapping[str, Tensor], copies: int) -> dict[str, Any]:
    """Repeats each prompt, which is read once. `generate()` itself would read it as often as it is repeated."""
    if copies == 1:
        return dict(inputs)
    ids = inputs["input_ids"]
    index = torch.arange(len(ids), device=ids.device).repeat_interleave(copies)
    read = prompt_cache(policy, inputs) if len(inputs) == 2 else {}  # with more, such as token types, it differs
    for cache in read.values():
        cache.reorder_cache(index)  # type: ignore[arg-type]
    repeated = {name: part[index] if isinstance(part, Tensor) else part for name, part in inputs.items()}
    return repeated | read


class _Tell(StoppingCriteria):
    """Tells of every step, and stops nothing."""

    def __init__(self, on_step: Callable[[], None]):
        self.on_step = on_step

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:  # type: ignore[override]
        self.on_step()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _reward_model_tokens(processor: Any) -> int:
    # A steering head computes none: it reads hidden states of the policy.
    return getattr(getattr(processor, "stats", None), "reward_model_tokens", 0)
