"""A trace of one response: every token, its reward, and the other candidates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from rgtg_hf.arguments import shown
from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
from rgtg_hf.decoding.records import StepRecord
from rgtg_hf.inspection.pieces import TextPieces
from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["Candidate", "Step", "Trace", "Tracer"]


@dataclass(frozen=True)
class Candidate:
    """A token that was possible at a step.

    Attributes:
        text: Its text.
        policy: Its probability under the policy restricted to the candidates.
        reward: Its reward increment, r(x, y_<t v) - r(x, y_<t).
        guided: Its probability under the guided policy; that of the policy where nothing was steered.
        chosen: Whether it is the one that was written.
    """

    text: str
    policy: float
    reward: float
    guided: float
    chosen: bool


@dataclass(frozen=True)
class Step:
    """A token that was written.

    Attributes:
        text: Its text; empty where it is but a part of a character, which the token that completes it carries.
        special: Whether it is a special token, such as the end of the response.
        reward: Its reward increment, r(x, y_<=t) - r(x, y_<t).
        kl: KL(guided ‖ policy) at this step, over the candidates, in nats.
        candidates: The policy's most likely first.
        returns: With a value model, how likely each return is after this token.
    """

    text: str
    special: bool
    reward: float
    kl: float
    candidates: tuple[Candidate, ...]
    returns: tuple[float, ...] = ()


@dataclass
class Trace:
    """One response, as far as it was written.

    Attributes:
        steps: One per token.
        seconds: Time from the prompt to the last token, without what only the trace needed.
        divergence_bound: Of a search, an upper bound of its divergence from the policy, in nats. No step has one.
        return_range: With a value model, the lowest and the highest return.
    """

    steps: list[Step] = field(default_factory=list)
    seconds: float = 0.0
    divergence_bound: float | None = None
    return_range: tuple[float, float] | None = None

    def __repr__(self) -> str:
        reward, kl = (sum(getattr(step, name) for step in self.steps) for name in ("reward", "kl"))
        bound = self.divergence_bound
        nats = f"KL {kl:.2f}" if bound is None else f"KL at most {bound:.2f}"
        return f"Trace({len(self.steps)} tokens, reward {reward:+.2f}, {nats}: {shown(self.text)})"

    @property
    def text(self) -> str:
        """The response without special tokens."""
        return "".join(step.text for step in self.steps if not step.special)

    @property
    def rewards(self) -> list[float]:
        """r(x, y_<=t) - r(x) after each token."""
        return list(accumulate(step.reward for step in self.steps))

    @property
    def divergences(self) -> list[float]:
        """KL to the policy summed up to each token, in nats."""
        return list(accumulate(step.kl for step in self.steps))

    @property
    def tokens_per_second(self) -> float:
        """Speed; 0 before the first token."""
        return len(self.steps) / self.seconds if self.seconds > 0 else 0.0


class Tracer(BaseStreamer):
    """Follows one `generate()` call with one prompt, and fills a trace while it runs.

    Give it to `generate()` as `streamer=`, with the processor in `logits_processor=`. Rewards that steering did not
    need (an unsteered response, a step with one candidate) are computed here, so that they can be shown.

    Args:
        processor: The steering processor, made with `collect_records=True`, with `beta=0` for the policy by itself.
        tokenizer: The policy's tokenizer.
        on_step: Called after every token.

    Attributes:
        trace: What happened so far.

    Raises:
        ValueError: If there are several rows, or the processor keeps no records.

    Example:
        ```python
        from rgtg_hf import RewardGuidedLogitsProcessor
        from rgtg_hf.inspection.trace import Tracer

        def traced(policy, tokenizer, reward_model, inputs):
            processor = RewardGuidedLogitsProcessor(reward_model, beta=2.0, collect_records=True)
            tracer = Tracer(processor, tokenizer)
            policy.generate(**inputs, logits_processor=[processor], streamer=tracer, max_new_tokens=8)
            return tracer.trace
        ```
    """

    def __init__(
        self,
        processor: RewardGuidedLogitsProcessor,
        tokenizer: Any,
        on_step: Callable[[], None] | None = None,
    ):
        self.trace = Trace()
        self._processor = processor
        self._special_ids = set(tokenizer.all_special_ids)
        self._pieces = TextPieces(tokenizer)
        self._on_step = on_step
        self._ids: list[int] = []
        self._prompt_length = 0
        self._started = 0.0

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt, ids of shape `[1, length]`, at the first call, and then one token at a time."""
        now = time.perf_counter()
        ids = value.flatten().tolist()
        if not self._ids:
            if value.dim() == 2 and len(value) > 1:
                raise ValueError(f"A trace follows one prompt, but generate() was given {len(value)}.")
            self._ids, self._prompt_length = ids, len(ids)
            self._pieces.begin(ids)
            self._started = now
            return
        for token in ids:
            self._take(token)
        self.trace.seconds = now - self._started
        if self._on_step is not None:
            self._on_step()
        self._started += time.perf_counter() - now

    def end(self) -> None:
        """Shows what is left of a character that was never completed."""
        rest = self._pieces.rest()
        if rest and self.trace.steps:
            self.trace.steps[-1] = replace(self.trace.steps[-1], text=rest)

    def _take(self, token: int) -> None:
        records = self._processor.stats.records
        if len(self.trace.steps) >= len(records):
            raise ValueError("The processor keeps no records: make it with `collect_records=True`.")
        record = records[len(self.trace.steps)]
        ids = record.candidate_ids[0].tolist()
        increments = self._increments(record)
        candidates = tuple(
            Candidate(self._pieces.after(candidate), policy, increment, guided, candidate == token)
            for candidate, policy, increment, guided in zip(
                ids, record.policy[0].exp().tolist(), increments, record.guided[0].exp().tolist(), strict=True
            )
            if policy > 0  # rows may have fewer candidates than columns
        )
        if token in ids:
            increment = increments[ids.index(token)]
        else:  # one that ties with the least likely candidate
            increment = self._score(torch.tensor([[token]], device=record.candidate_ids.device))[0]
        step = Step(self._pieces.add(token), token in self._special_ids, increment, record.kl.item(), candidates)
        self.trace.steps.append(step)
        self._ids.append(token)

    def _increments(self, record: StepRecord) -> list[float]:
        if bool(record.increments.isnan().any()):
            return self._score(record.candidate_ids)
        return record.increments[0].tolist()

    def _score(self, candidate_ids: torch.Tensor) -> list[float]:
        # Scorers find what they kept by the ids, so to ask once more disturbs nothing.
        ids = torch.tensor([self._ids], device=candidate_ids.device)
        prefix = PrefixBatch(ids, torch.ones_like(ids), self._prompt_length)
        return self._processor.scorer.score(prefix, candidate_ids)[0].tolist()
