"""The hidden states that a policy computes anyway while it generates, by a forward hook on its decoder."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.compat import cache_in
from rgtg_hf.decoding.compiled_capture import CompiledPasses, watch_compiled
from rgtg_hf.rewards.parts import find_decoder

__all__ = ["HiddenCapture", "Passes", "capture_hidden"]

_MOST_KEPT = 16  # forward passes between two steps: the chunks of a long prompt, and those of other processors


class _Pass(NamedTuple):
    """A forward pass: the ids it read, the cache it used, and the last column's hidden states."""

    ids: Tensor | None
    cache: ref[Any] | None
    hidden: Tensor

    def continues(self, other: _Pass) -> bool:
        """Whether it went on with the cache of another pass."""
        # Only a living cache can be the same: the number of one that was freed is given to the next.
        own = self.cache and self.cache()
        return own is not None and own is (other.cache and other.cache())

    def ends(self, input_ids: Tensor) -> Tensor:
        """Whether it read the end of these prefixes, a boolean on their device."""
        fits = input_ids.new_ones((), dtype=torch.bool)
        if len(self.hidden) != len(input_ids):
            return ~fits
        if self.ids is None:
            return fits
        width = self.ids.shape[1]
        if width > input_ids.shape[1]:
            return ~fits
        return (self.ids.to(input_ids.device) == input_ids[:, -width:]).all()


class Passes(NamedTuple):
    """The policy's forward passes since the last step.

    Attributes:
        passes: The passes.
        ends: Whether each of them read the end of the prefixes, shape `[passes]`, boolean, on the device.
    """

    passes: list[_Pass]
    ends: Tensor

    def hidden(self, ends: Sequence[Any]) -> Tensor:
        """The hidden states behind the prefixes, shape `[rows, hidden_size]`.

        Args:
            ends: `ends`, copied to the host.

        Raises:
            ValueError: If none of the passes ended with these prefixes.
        """
        found: _Pass | None = None
        for one, fits in zip(self.passes, ends, strict=True):
            if fits and (found is None or one.continues(found)):
                found = one
        if found is None:
            raise ValueError(
                "The policy has not just read these prefixes, so there are no hidden states to steer by. A steering "
                "head needs one forward pass of the policy per step: greedy decoding, sampling and beam search of the "
                "policy that `steering` was given. For assisted and prompt-lookup decoding use "
                "RewardGuidedLogitsProcessor(head, ...), which runs the decoder once more."
            )
        return found.hidden


class HiddenCapture:
    """The last column's hidden states of the policy's pass over the current prefixes, to be taken once per step.

    Other processors may run the policy as well, as classifier-free guidance does. `generate()` runs it first, so the
    first pass that fits is its own; a long prompt may take it several, all with one cache. Each thread sees only its
    own passes, so generations that run at the same time with different heads do not meet.
    """

    def __init__(self, compiled: CompiledPasses) -> None:
        self.active = True
        self._compiled = compiled
        self._of_thread = threading.local()

    def store(self, module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """The forward hook: keeps the last hidden states, and the ids and the cache that they belong to."""
        if torch.compiler.is_compiling():
            return
        ids, cache = kwargs.get("input_ids", args[0] if args else None), cache_in(kwargs)
        one = _Pass(ids, None if cache is None else ref(cache), output[0][:, -1])
        self._of_thread.__dict__.setdefault("passes", deque(maxlen=_MOST_KEPT)).append(one)

    def take(self, input_ids: Tensor) -> Passes:
        """The passes since the last step, which may have read some prefixes.

        Args:
            input_ids: The prefixes, which the policy must just have read, shape `[rows, length]`.

        Raises:
            RuntimeError: If the hook has been removed.
        """
        if not self.active:
            raise RuntimeError(
                "This processor's steering has ended. Call generate() inside its `with steering(...)` block."
            )
        passes: list[_Pass] = list(self._of_thread.__dict__.pop("passes", ()))
        # The policy's own pass comes first, and what others read without compiling it after that.
        passes = [*(_Pass(ids, None, hidden) for ids, hidden in self._compiled.take()), *passes]
        nothing = input_ids.new_zeros(0, dtype=torch.bool)
        return Passes(passes, torch.stack([one.ends(input_ids) for one in passes]) if passes else nothing)


@contextmanager
def capture_hidden(policy: PreTrainedModel) -> Iterator[HiddenCapture]:
    """Captures a policy's hidden states for the length of a block; the hook is removed at its end in any case.

    Args:
        policy: A causal LM.

    Yields:
        Where the hidden states of each forward pass can be taken.
    """
    with watch_compiled(policy) as compiled:
        capture = HiddenCapture(compiled)
        handle = find_decoder(policy).register_forward_hook(capture.store, with_kwargs=True)
        try:
            yield capture
        finally:
            handle.remove()
            capture.active = False
