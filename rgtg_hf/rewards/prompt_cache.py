"""The cache of a prompt that was read once, for several rows that go on from it."""

from __future__ import annotations

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


def shared_cache(model: PreTrainedModel, output: Any, length: int) -> dict[str, DynamicCache]:
    """The cache that a model has returned, if rows can be repeated in it and go on from it.

    Args:
        model: A causal language model, or its decoder.
        output: What the model returned, or its `generate()`.
        length: How many columns were read.

    Returns:
        The cache under the name by which the model takes it. Nothing for models with recurrent layers, some of which
        keep their state elsewhere, and where the model keeps another kind of cache.
    """
    cache = cache_in(output)
    if is_recurrent(model) or not isinstance(cache, DynamicCache) or cache.get_seq_length() != length:
        return {}
    if not all(getattr(layer, "is_initialized", True) for layer in cache.layers):  # a state is kept elsewhere
        return {}
    return {cache_argument(find_backbone(model).forward): cache}  # type: ignore[arg-type]
