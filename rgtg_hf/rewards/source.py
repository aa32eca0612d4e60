"""Where reward models in memory were loaded from, for what lies beside their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from rgtg_hf.config import RewardModelSource

__all__ = ["describe_reward_model", "display_name", "is_hub_name", "remember_source", "source_of"]

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


def display_name(name: str) -> str:
    """A model's name that is safe to show: a hub name `owner/name`, or the last part of a path.

    Example:
        ```python
        from rgtg_hf.rewards.source import display_name

        assert display_name("owner/model") == "owner/model"
        assert display_name("/home/me/runs/model/") == "model"
        ```
    """
    parts = _parts(name)
    return "/".join(parts) if is_hub_name(name) else parts[-1]


def is_hub_name(name: str) -> bool:
    """Whether a model's name can be one on the hub, `owner/name` or `name`, and is not that of a folder here."""
    return len(_parts(name)) <= 2 and not name.startswith((".", "/", "~", "\\")) and not Path(name).exists()


def _parts(name: str) -> list[str]:
    return name.replace("\\", "/").rstrip("/").split("/")


def describe_reward_model(reward_model: Any) -> str:
    """Describes a reward model in a few words: its class and its name, or the name of a function.

    Args:
        reward_model: A reward model, anything else that rewards may come from, or a list of such.
    """
    if isinstance(reward_model, (list, tuple)):
        return f"[{', '.join(map(describe_reward_model, reward_model))}]"
    if not isinstance(reward_model, nn.Module):
        return str(getattr(reward_model, "__name__", type(reward_model).__name__))
    source = source_of(reward_model)
    kind = type(reward_model).__name__
    return kind if source is None else f"{kind}({display_name(source.name)!r})"
