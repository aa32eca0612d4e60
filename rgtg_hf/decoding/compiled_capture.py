"""The hidden states of compiled passes of a policy, which call no hook that came after their compilation.

In a compiled pass a hook is left out, or breaks the graph; what a module of another class does is compiled like
everything else. So the policy's embedding and output layer are replaced, through the policy's own setters, by modules
with the same contents that note the ids that a pass reads and the states that it ends with. `torch` compiles the
policy once more when it meets them, and goes on with what it had compiled before when they are gone.
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
    watched: tuple[nn.Module]
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
    with _lock:
        for kind, module, replace in _ends_of(policy):
            if not isinstance(module, kind):
                replace(module := _watched(kind, module))
            module.watchers.append(passes)
    try:
        yield passes
    finally:
        with _lock:
            for kind, module, replace in _ends_of(policy):
                if isinstance(module, kind):
                    module.watchers.remove(passes)
                    if not module.watchers:
                        del module.watchers
                        replace(module.__dict__.pop("watched")[0])


def _ends_of(policy: Any) -> list[tuple[type[_Watched], Any, Any]]:
    return [
        (_Embedding, policy.get_input_embeddings(), policy.set_input_embeddings),
        (_OutputLayer, policy.get_output_embeddings(), policy.set_output_embeddings),
    ]


def _watched(kind: type[_Watched], module: nn.Module) -> _Watched:
    """A module of another class with the very attributes of a module, so that a change of one is one of both."""
    both: Any = _class_of(kind, type(module))  # type: ignore[arg-type]
    watched: _Watched = both.__new__(both)
    object.__setattr__(watched, "__dict__", module.__dict__)
    watched.watchers = []
    watched.watched = (module,)  # in a tuple, which is no part of the model
    return watched


@cache
def _class_of(kind: type[_Watched], other: type[nn.Module]) -> type:
    """The same class for the same two, so that a second block finds what the first one had compiled."""
    return type(other.__name__, (kind, other), {})
