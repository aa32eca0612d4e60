"""The hidden states that a policy computes anyway while it generates, by a forward hook on its decoder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.prefix_rewards import find_backbone

__all__ = ["HiddenCapture", "capture_hidden"]


class HiddenCapture:
    """The last column's hidden states of the policy's latest forward pass, to be taken once.

    What one thread's forward pass computed only that thread sees, so generations that run at the same time with
    different heads do not meet.
    """

    def __init__(self) -> None:
        self.active = True
        self._of_thread = threading.local()

    def store(self, module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """The forward hook: keeps the last hidden states, and the ids that they stand behind."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        self._of_thread.latest = (None if ids is None else ids[:, -1], output[0][:, -1])

    def take(self, input_ids: Tensor) -> Tensor:
        """The hidden states behind some prefixes, shape `[rows, hidden_size]`.

        Args:
            input_ids: The prefixes, which the policy must just have read, shape `[rows, length]`.

        Raises:
            RuntimeError: If the hook has been removed.
            ValueError: If the policy's latest forward pass did not end with these prefixes.
        """
        if not self.active:
            raise RuntimeError(
                "This processor's steering has ended. Call generate() inside its `with steering(...)` block."
            )
        last, hidden = self._of_thread.__dict__.pop("latest", (None, None))
        if (
            hidden is None
            or len(hidden) != len(input_ids)
            or (last is not None and not torch.equal(last.to(input_ids.device), input_ids[:, -1]))
        ):
            raise ValueError(
                "The policy has not just read these prefixes, so there are no hidden states to steer by. A steering "
                "head's free way needs one forward pass per step: greedy decoding, sampling and beam search of the "
                "policy that `steering` was given. For assisted and prompt-lookup decoding use "
                "RewardGuidedLogitsProcessor(head, ...), which runs the decoder once more."
            )
        return hidden


@contextmanager
def capture_hidden(policy: PreTrainedModel) -> Iterator[HiddenCapture]:
    """Captures a policy's hidden states for the length of a block; the hook is removed at its end, come what may.

    Args:
        policy: A causal LM.

    Yields:
        Where the hidden states of each forward pass can be taken.
    """
    capture = HiddenCapture()
    handle = find_backbone(policy).register_forward_hook(capture.store, with_kwargs=True)
    try:
        yield capture
    finally:
        handle.remove()
        capture.active = False
