"""The hidden states of compiled passes of a policy, which call no hook that came after their compilation.

In a compiled pass a hook is left out, or breaks the graph; what a module of another class does is compiled like
everything else. So the policy's embedding and output layer become modules of another class for a while, as they do
in `torch.nn.utils.parametrize`: one that notes the ids that a pass reads and the states that it ends with. `torch`
compiles the policy once more when it meets them, and goes on with what it had compiled before when they are gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

__all__ = ["CompiledPasses", "watch_compiled"]

_lock = threading.Lock()


class CompiledPasses:
    """The first and the last of the compiled passes since the last step. There is one, but for special cases.

    Compiled code writes to it. All that it reads is whether there has been a pass, since it is compiled again for each
    other answer.
    """

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.first_ids: Tensor | None = None
        self.first_hidden: Tensor | None = None
        self.last_ids: Tensor | None = None
        self.last_hidden: Tensor | None = None

    def begin(self, ids: Tensor) -> None:
        """Notes the ids that a pass reads."""
        if self.first_hidden is None:
            self.first_ids = ids
        self.last_ids = ids

    def end(self, hidden: Tensor) -> None:
        """Notes the states that it ends with."""
        if self.first_hidden is None:
            self.first_hidden = hidden
        self.last_hidden = hidden

    def take(self) -> list[tuple[Tensor | None, Tensor]]:
        """The passes, which are forgotten: ids, shape `[rows, new]`, and last hidden states, `[rows, hidden_size]`."""
        pairs = [(self.first_ids, self.first_hidden), (self.last_ids, self.last_hidden)]
        found = [(ids, hidden[:, -1]) for ids, hidden in pairs if hidden is not None]
        only_one = self.first_hidden is self.last_hidden
        self._clear()
        return found[:1] if only_one else found


class _Watched(nn.Module):
    """A module that says what it is given in a compiled pass."""

    watchers: list[CompiledPasses]
    tell: Callable[[CompiledPasses, Tensor], None]

    def forward(self, given: Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            for passes in self.watchers:
                self.tell(passes, given)
        return super().forward(given, *args, **kwargs)


class _Embedding(_Watched):
    tell = staticmethod(CompiledPasses.begin)


class _OutputLayer(_Watched):
    tell = staticmethod(CompiledPasses.end)


@contextmanager
def watch_compiled(policy: PreTrainedModel) -> Iterator[CompiledPasses]:
    """Watches a policy's compiled passes for the length of a block. Blocks may lie within or beside each other.

    Args:
        policy: A causal LM.

    Yields:
        The compiled passes, to be taken at each step.
    """
    passes = CompiledPasses()
    ends: dict[type[_Watched], Any] = {
        _Embedding: policy.get_input_embeddings(),
        _OutputLayer: policy.get_output_embeddings(),
    }
    with _lock:
        for kind, module in ends.items():
            if not isinstance(module, kind):
                module.watchers = []
                module.__class__ = _watched(kind, type(module))  # type: ignore[arg-type]
            module.watchers.append(passes)
    try:
        yield passes
    finally:
        with _lock:
            for module in ends.values():
                module.watchers.remove(passes)
                if not module.watchers:
                    del module.watchers
                    module.__class__ = type(module).__bases__[1]


@cache
def _watched(kind: type[_Watched], other: type[nn.Module]) -> type:
    """The same class for the same two, so that a second block finds what the first one had compiled."""
    return type(other.__name__, (kind, other), {})
