"""Two responses to one prompt, steered and not, written at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers import StoppingCriteria

from rgtg_hf.inspection.inspect import trace_response
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

    They never compute at the same time: so each one's speed is its own, not what the other left of the machine.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turn = 0
        self._ended = [False, False]

    def wait(self, index: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn == index)

    def pass_on(self, index: int, ends: bool = False) -> None:
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
    beta: float,
    top_k: int,
    *,
    do_sample: bool,
    max_new_tokens: int,
    stop: threading.Event,
    interval: float = 0.25,
) -> Iterator[tuple[Trace, Trace]]:
    """Writes both responses, a token of one and then of the other, and gives what there is while they grow.

    Args:
        policy: The language model.
        tokenizer: Its tokenizer.
        reward_model: The reward model.
        input_ids: The prompt, shape `[1, length]`.
        beta: Strength of steering of the first response; the second is not steered.
        top_k: Candidates per step.
        do_sample: Sample; otherwise take the likeliest candidate.
        max_new_tokens: Tokens per response at most.
        stop: Ends both responses at their next token when it is set. They also end when the iterator is closed.
        interval: Seconds between two looks at most, if there is something new.

    Yields:
        The steered and the unsteered trace. Both grow; at the end both are complete.

    Raises:
        Exception: Whatever `generate()` raised in a thread, after the other one has ended.
    """
    closed = threading.Event()
    news: queue.Queue[None] = queue.Queue()
    traces = [Trace(), Trace()]
    errors: list[BaseException] = []
    turns = _Turns()

    def write(index: int, strength: float) -> None:
        def on_step(trace: Trace) -> None:
            # A copy: the reader walks through it while the writer goes on.
            traces[index] = Trace(list(trace.steps), trace.seconds)
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
                strength,
                top_k,
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

    threads = [threading.Thread(target=write, args=(i, s), daemon=True) for i, s in enumerate((beta, 0.0))]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            try:
                news.get(timeout=interval)
            except queue.Empty:
                continue
            stop.wait(interval)  # several tokens at a time; at once where there is a stop
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
