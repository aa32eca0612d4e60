"""Where reward models in memory were loaded from, for what lies beside their weights."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from rgtg_hf.config import RewardModelSource

__all__ = ["remember_source", "source_of"]

_sources: WeakKeyDictionary[nn.Module, RewardModelSource] = WeakKeyDictionary()


def remember_source(reward_model: nn.Module, name: str, revision: str | None = None) -> None:
    """Notes where a reward model was loaded from."""
    _sources[reward_model] = RewardModelSource(str(name), revision)


def source_of(reward_model: Any) -> RewardModelSource | None:
    """Where a reward model was loaded from.

    Args:
        reward_model: A reward model, or anything else that rewards may come from.

    Returns:
        What [`load_reward_model`][rgtg_hf.rewards.load.load_reward_model] was given, or else the name that
        `from_pretrained` left in the model. `None` for a model that was not loaded, a function or a list.
    """
    if not isinstance(reward_model, nn.Module):
        return None
    if reward_model in _sources:
        return _sources[reward_model]
    name = getattr(reward_model, "name_or_path", None)
    return RewardModelSource(name) if isinstance(name, str) and name else None
