"""A pass of fixed shapes, recorded as a CUDA graph and replayed.

A step of a small model on a GPU is bound by its launches, hundreds of them. A graph launches them all at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

__all__ = ["PassRecorder"]

logger = logging.getLogger(__name__)


class PassRecorder:
    """Runs a pass as it is when its shapes are new, and from its recording as soon as they come again.

    A recording reads its inputs and writes its output in memory of its own, and uses all other tensors where they lay.
    On a CPU there are no graphs, but the memory is used in the same way.
    """

    def __init__(self) -> None:
        self._recordings: dict[Hashable, _Recording | None] = {}
        self._memory = -1
        self._failed = False

    def run(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...], key: Hashable, memory: int) -> Tensor:
        """Runs a pass.

        Args:
            function: The pass, a function of the inputs that never looks at the device.
            inputs: Its inputs.
            key: What else its shapes depend on.
            memory: Changes when another tensor that the pass uses has moved. Then all recordings are forgotten.

        Returns:
            The output, which the next pass may write over.
        """
        # Autocast keeps weights that it has cast, which a recording would not have computed yet.
        if self._failed or torch.is_autocast_enabled(inputs[0].device.type):
            return function(*inputs)
        if memory != self._memory:
            self._recordings, self._memory = {}, memory
        key = (key, *(one.shape for one in inputs))
        if key not in self._recordings:
            self._recordings[key] = None  # a first pass as it is allocates, and warms up
            return function(*inputs)
        recording = self._recordings[key]
        if recording is None:
            try:
                recording = self._recordings[key] = _Recording(function, inputs)
            except RuntimeError as error:
                self._failed, self._recordings = True, {}
                reason = " ".join(str(error).split())[:200]
                logger.warning("The reward model runs without a CUDA graph, for it could not be recorded: %s", reason)
                return function(*inputs)
        return recording(inputs)


class _Recording:
    """One pass with its own inputs and output."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]):
        self.function, self.inputs = function, [one.clone() for one in inputs]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.output: Tensor | None = None
        if inputs[0].device.type == "cuda":
            self.graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile.
            with torch.cuda.device(inputs[0].device), torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.output = function(*self.inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for own, new in zip(self.inputs, inputs, strict=True):
            own.copy_(new)
        if self.graph is not None:
            self.graph.replay()
        else:
            found = self.function(*self.inputs)
            self.output = found.clone() if self.output is None else self.output.copy_(found)
        assert self.output is not None
        return self.output
