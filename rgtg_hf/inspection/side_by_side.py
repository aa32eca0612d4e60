"""A guided and an unguided response to one prompt, written at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from transformers import StoppingCriteria

from rgtg_hf.config import RewardGuidanceConfig
from rgtg_hf.inspection.inspect import trace_response, unguided
from rgtg_hf.inspection.trace import Trace

__all__ = ["stream_side_by_side"]


class _StopWhenSet(StoppingCriteria):
    def __init__(self, *events: threading.Event):
        self._events = events

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        stop = any(event.is_set() for event in self._events)
        return torch.full((len(input_ids),), stop, device=input_ids.device, dtype=torch.bool)


class _Turns:
    """Lets two threads take turns, token by token, until one of them ends.

    They never compute at the same time, so that neither slows the other and both speeds can be compared. Each has
    random numbers of its own from the same seed, as if it ran alone.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._changed = threading.Condition()
        self._turn = 0
        self._ended = [False, False]
        self._gpu = device if device.type == "cuda" else None
        torch.manual_seed(seed)
        self._random = [self._random_state()] * 2

    def wait(self, index: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == index)
        cpu, gpu = self._random[index]
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu, self._gpu)  # type: ignore[arg-type]

    def _random_state(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return torch.get_rng_state(), None if self._gpu is None else torch.cuda.get_rng_state(self._gpu)

    def pass_on(self, index: int, ends: bool = False) -> None:
        self._random[index] = self._random_state()
        with self._changed:
            self._ended[index] = self._ended[index] or ends
            if not self._ended[1 - index]:
                self._turn = 1 - index
            self._changed.notify_all()


def stream_side_by_side(
    policy: Any,
    tokenizer: Any,
    reward_model: Any,
    input_ids: torch.Tensor,
    guidance_config: RewardGuidanceConfig,
    *,
    do_sample: bool,
    max_new_tokens: int,
    stop: threading.Event,
    seed: int = 0,
    interval: float = 0.25,
) -> Iterator[tuple[Trace, Trace]]:
    """Writes both responses in turn, one token at a time, and yields them while they grow.

    Args:
        policy: The language model.
        tokenizer: The policy's tokenizer.
        reward_model: The reward model.
        input_ids: The prompt, shape `[1, length]`.
        guidance_config: The settings of the first response. The second has a beta of 0, no search, and is unguided.
        do_sample: Sample; otherwise choose the most likely candidate. A search always samples.
        max_new_tokens: Largest number of tokens per response.
        stop: Ends both responses at their next token when it is set. They also end when the iterator is closed.
        seed: Seed of both responses: each is what it would be alone. The global random state is left behind changed.
        interval: Seconds to wait before new tokens are yielded.

    Yields:
        The guided and the unguided trace. The last pair is complete.

    Raises:
        Exception: The error of `generate()` in a thread, after both threads have ended.
    """
    closed = threading.Event()
    news: queue.Queue[None] = queue.Queue()
    traces = [Trace(), Trace()]
    errors: list[BaseException] = []
    turns = _Turns(seed, policy.device)

    def write(index: int, config: RewardGuidanceConfig) -> None:
        def on_step(trace: Trace) -> None:
            # A copy, because the reader iterates over it while new tokens are added.
            traces[index] = replace(trace, steps=list(trace.steps))
            news.put(None)
            turns.pass_on(index)
            turns.wait(index)

        turns.wait(index)
        try:
            traces[index] = trace_response(
                policy,
                tokenizer,
                reward_model,
                input_ids,
                config,
                do_sample=do_sample,
                max_new_tokens=max_new_tokens,
                on_step=on_step,
                stopping_criteria=[_StopWhenSet(stop, closed)],
            )
        except BaseException as error:
            errors.append(error)
            closed.set()
        finally:
            turns.pass_on(index, ends=True)
            news.put(None)

    configs = (guidance_config, unguided(guidance_config))
    threads = [threading.Thread(target=write, args=one, daemon=True) for one in enumerate(configs)]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            try:
                news.get(timeout=interval)
            except queue.Empty:
                continue
            stop.wait(interval)  # collects several tokens; a stop ends the wait at once
            while not news.empty():
                news.get_nowait()
            yield traces[0], traces[1]
    finally:
        closed.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    yield traces[0], traces[1]
