"""Differences between versions of transformers, each with the version that makes it needless.

What a version can do is asked of the version itself wherever that is possible, not of its number.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["cache_argument", "cache_in"]

# From 5.24 on a model's cache is called `cache`, and 5.40 no longer knows the older names. The last one is Mamba's.
_CACHE_NAMES = ("cache", "past_key_values", "cache_params")


def cache_argument(function: Callable[..., Any]) -> str:
    """The name under which a function, or a class of outputs, takes a cache."""
    parameters = inspect.signature(function).parameters
    return next((name for name in _CACHE_NAMES if name in parameters), "past_key_values")


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a call, or in its output; `None` if there is none."""
    return next((arguments[name] for name in _CACHE_NAMES if name in arguments), None)
