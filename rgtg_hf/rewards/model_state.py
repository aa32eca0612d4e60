"""The state of a reward model that others may train meanwhile: its mode, and whether its weights have changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from rgtg_hf.private_names import version_of

__all__ = ["ModelState", "evaluating", "input_device"]


def input_device(model: nn.Module) -> torch.device:
    """Where a model takes its inputs. One that is offloaded, whose weights come and go, takes them anywhere."""
    device = next(model.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device


@contextmanager
def evaluating(models: Any) -> Iterator[None]:
    """Puts models into evaluation mode for the length of a block, and what was in training mode back into it.

    Args:
        models: A model or several. What is no model, such as a function of texts, stays as it is.

    Example:
        ```python
        from torch import nn
        from rgtg_hf.rewards.model_state import evaluating

        model = nn.Dropout().train()
        with evaluating(model):
            assert not model.training
        assert model.training
        ```
    """
    several = models if isinstance(models, (list, tuple)) else [models]
    # Looking at all modules takes longer than a small step, so a model in evaluation mode is left alone at once.
    trained = [one for one in several if isinstance(one, nn.Module) and one.training]
    modules = [module for one in trained for module in one.modules() if module.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True


class ModelState:
    """Notices that a model no longer computes what it did: other weights, other adapters, or another precision.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._list_parts()
        self._last = self._state()
        self._last_places = self._places()

    def has_changed(self, thorough: bool = False) -> bool:
        """Whether anything has changed since the last question.

        Args:
            thorough: Also look for parts that were put in or replaced, which takes a millisecond. Otherwise only the
                parts that were there are looked at, which takes a few hundredths of one.
        """
        places = self._last_places
        if thorough:
            self._list_parts()
            places = self._places()
        found = self._state()
        changed = (found, places) != (self._last, self._last_places)
        self._last, self._last_places = found, places
        return changed

    def _list_parts(self) -> None:
        self._parameters = list(self._model.parameters())
        # In layers with adapters this is a property; in models, a method.
        modules = self._model.modules()
        self._adapters = [one for one in modules if isinstance(getattr(type(one), "disable_adapters", None), property)]

    def _state(self) -> tuple[Any, ...]:
        kind = input_device(self._model).type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        adapters = [(one.disable_adapters, one.active_adapters) for one in self._adapters]
        return autocast, adapters, [version_of(one) for one in self._parameters]

    def _places(self) -> list[int]:
        # Weights that are offloaded have none between passes.
        return [0 if one.is_meta else one.data_ptr() for one in self._parameters]
