"""Traces the response of a search: the search writes it, and then its rewards are read token by token."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from rgtg_hf.config import RewardGuidanceConfig
from rgtg_hf.decoding.generation import generate_guided
from rgtg_hf.decoding.search_divergence import search_divergence
from rgtg_hf.inspection.pieces import TextPieces
from rgtg_hf.inspection.trace import Step, Trace

__all__ = ["Follow", "trace_search"]


def trace_search(
    policy: Any,
    tokenizer: Any,
    reward_model: Any,
    input_ids: Tensor,
    guidance_config: RewardGuidanceConfig,
    follow: Callable[[LogitsProcessor, int], Trace],
    *,
    on_step: Callable[[Trace], None] | None = None,
    stopping_criteria: Sequence[Any] = (),
    **settings: Any,
) -> Trace:
    """Searches for a response and traces it.

    Args:
        policy: The language model, decoder-only.
        tokenizer: Its tokenizer.
        reward_model: The reward model.
        input_ids: The prompt, shape `[1, length]`.
        guidance_config: The settings, with a `search` other than `"tokens"`.
        follow: Traces an unguided generation under one more processor, with a number of tokens. It gives the response
            its rewards and candidates.
        on_step: Called with the text so far, without rewards, as soon as all rows share it.
        stopping_criteria: Criteria that may end the search early.
        settings: Of `generate()`.

    Returns:
        The trace. Its time is that of the search, and its divergence has an upper bound alone.
    """
    config = copy.deepcopy(policy.generation_config)
    config.update(do_sample=True, return_dict_in_generate=True, **settings)
    start = time.perf_counter()
    found = generate_guided(
        policy.generate,
        policy,
        reward_model,
        input_ids,
        config,
        None,
        attention_mask=torch.ones_like(input_ids),
        guidance_config=guidance_config,
        tokenizer=tokenizer,
        streamer=_Text(tokenizer, start, on_step),
        stopping_criteria=StoppingCriteriaList(stopping_criteria),
    )
    seconds = time.perf_counter() - start
    response = found.sequences[0, input_ids.shape[1] :].tolist()
    traced = follow(Follow([response]), len(response))
    bound = search_divergence(guidance_config, found, [len(response)])[0]
    return replace(traced, seconds=seconds, divergence_bound=max(0.0, bound))


class _Text(BaseStreamer):
    """Hands on the text of a search while it grows."""

    def __init__(self, tokenizer: Any, start: float, on_step: Callable[[Trace], None] | None):
        self.trace, self._on_step, self._start = Trace(), on_step, start
        self._special_ids = set(tokenizer.all_special_ids)
        self._pieces = TextPieces(tokenizer)

    def put(self, value: Tensor) -> None:
        """Takes the prompt, shape `[1, length]`, and then tokens that all rows share."""
        if value.dim() == 2:
            self._pieces.begin(value[0].tolist())
            return
        for token in value.tolist():
            self.trace.steps.append(Step(self._pieces.add(token), token in self._special_ids, 0.0, 0.0, ()))
        self.trace.seconds = time.perf_counter() - self._start
        if self._on_step is not None:
            self._on_step(self.trace)

    def end(self) -> None:
        """Nothing is left to do."""


class Follow(LogitsProcessor):
    """Makes `generate()` write given responses: it leaves only their tokens, one at each step.

    Args:
        responses: The ids of each row's response.
        pad_token_id: What is written after the end of a response that is shorter than others.
    """

    def __init__(self, responses: Sequence[list[int]], pad_token_id: int = 0):
        width = max(map(len, responses))
        self.ids = torch.tensor([row + [pad_token_id] * (width - len(row)) for row in responses])
        self._steps = iter(self.ids.T)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Scores of shape `[rows, vocabulary]`, `-inf` for all tokens but one of each row."""
        chosen = next(self._steps)[:, None].to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)
