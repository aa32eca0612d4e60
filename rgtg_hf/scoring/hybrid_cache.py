"""The cache of a step's candidates in a hybrid model: a recurrent state for each, and shared keys and values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer, LinearAttentionAndFullAttentionLayer, LinearAttentionLayer

from rgtg_hf.scoring.shared_attention import CandidateLayout

__all__ = ["HybridCache", "check_layers"]

_KNOWN = (DynamicLayer, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer)
_EMPTY = "DummyLayer"  # of layers that read no other token; transformers 5.5 has no such class


def check_layers(config: PretrainedConfig) -> None:
    """Refuses a model whose cache has layers of another kind than full attention and recurrent states.

    Args:
        config: The decoder's configuration.

    Raises:
        ValueError: If it has, such as windows, chunks or indices.
    """
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    others = sorted(kind.__name__ for kind in kinds if kind not in _KNOWN and kind.__name__ != _EMPTY)
    if others or not any(issubclass(kind, LinearAttentionLayer) for kind in kinds):
        found = others or sorted(kind.__name__ for kind in kinds)
        raise ValueError(f"Only hybrids of full attention and recurrent layers share their cache; here are {found}.")


class HybridCache(Cache):
    """The cache that the candidates of a step read and write. That of their prefixes stays as it is.

    Args:
        held: The cache of the prefixes, which holds their last token.
        layout: Where the candidates stand.
    """

    def __init__(self, held: Cache, layout: CandidateLayout):
        self._held, self._layout = held, layout
        self._new: dict[int, tuple[Tensor, Tensor]] = {}  # keys and values of the candidates, by layer
        super().__init__(layers=[self._layer_of_candidates(layer) for layer in held.layers])

    def _layer_of_candidates(self, layer: Any) -> Any:
        """A layer with a state per candidate. Its keys and values, if it has any, are not copied."""
        if not isinstance(layer, LinearAttentionLayer):
            return layer
        shared = (getattr(layer, "keys", None), getattr(layer, "values", None))
        own = copy.deepcopy(layer, {id(part): part for part in shared if part is not None})
        LinearAttentionLayer.reorder_cache(own, self._layout.prefixes)  # type: ignore[arg-type]
        return own

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Returns keys and values of prefixes and their candidates, `[prefixes, heads, length + slots, size]`."""
        self._new[layer_idx] = (key_states, value_states)
        layer, spread = self._held.layers[layer_idx], self._layout.spread
        return (
            torch.cat([layer.keys, spread(key_states)], dim=2),  # type: ignore[union-attr, list-item]
            torch.cat([layer.values, spread(value_states)], dim=2),  # type: ignore[union-attr, list-item]
        )

    def follow(self, chosen: Tensor, moved: bool) -> Cache:
        """The cache of the prefixes that some candidates have made. The cache before it is used up.

        Args:
            chosen: The candidate that each row goes on with, shape `[rows]`.
            moved: Whether any row goes on from another row's prefix.
        """
        for number, layer in enumerate(self.layers):
            if isinstance(layer, LinearAttentionLayer):
                LinearAttentionLayer.reorder_cache(layer, chosen)  # type: ignore[arg-type]
            if number in self._new:
                if moved:
                    DynamicLayer.reorder_cache(layer, self._layout.prefixes[chosen])  # type: ignore[arg-type]
                keys, values = (part[chosen.to(part.device)] for part in self._new[number])
                layer.update(keys, values)  # type: ignore[union-attr]
            self._held.layers[number] = layer
        return self._held
