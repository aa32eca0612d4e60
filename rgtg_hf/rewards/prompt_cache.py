"""The cache of a prompt that was read once, for several rows that go on from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import DynamicCache, PreTrainedModel

from rgtg_hf.compat import cache_argument, cache_in
from rgtg_hf.rewards.parts import find_backbone

__all__ = ["is_recurrent", "shared_cache"]

_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}


def is_recurrent(model: PreTrainedModel) -> bool:
    """Whether some layers of a model keep something else than the keys and values of all tokens."""
    config = find_backbone(model).config.get_text_config()  # type: ignore[operator, union-attr]
    return bool(set(getattr(config, "layer_types", None) or ()) - _ATTENTION_LAYERS)


def shared_cache(model: PreTrainedModel, length: int, read: Callable[[], Any]) -> dict[str, DynamicCache]:
    """Reads prompts whose cache several rows can go on from, if the model keeps such a cache.

    Args:
        model: A causal language model, or its decoder.
        length: How many columns are read.
        read: Reads them, and returns what the model returns, or its `generate()`. Not called if it would be in vain.

    Returns:
        The cache under the name by which the model takes it. Nothing for models with recurrent layers, some of which
        keep their state elsewhere, and where the model keeps another kind of cache.
    """
    if is_recurrent(model):
        return {}
    cache = cache_in(read())
    if not isinstance(cache, DynamicCache) or cache.get_seq_length() != length:
        return {}
    if not all(getattr(layer, "is_initialized", True) for layer in cache.layers):  # a state is kept elsewhere
        return {}
    return {cache_argument(find_backbone(model).forward): cache}  # type: ignore[arg-type]
