"""A KV cache without columns: the tokens of a row lie in places, in any order.

Attention does not see the order of its keys. A token's meaning comes from its position, which went into its key, and
from the mask, which says who sees it. So a candidate that was chosen stays in the place where it was read, the places
of the others are used again, rows grow at different paces, and nothing is ever moved or joined.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

__all__ = ["SiblingCache"]


@dataclass
class _Target:
    """Where the tokens of the next forward pass go; all layers share it."""

    row_count: int = 0
    rows: Tensor | None = None
    places: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    width: int = 0
    row_capacity: int = 0
    capacity: int = 0


class SiblingCache(Cache):
    """Keys and values of a batch of rows. Call `place_next` to say where the next tokens go, then run the model."""

    def __init__(self) -> None:
        self._target = _Target()  # the layers hold this and not the cache: a reference cycle would be freed late
        super().__init__(layer_class_to_replicate=partial(_SiblingLayer, self._target))  # type: ignore[arg-type]

    def place_next(self, row_count: int, rows: Tensor | None, places: Tensor, width: int) -> None:
        """Says where the tokens of the next forward pass go.

        Args:
            row_count: How many rows the cache has. There may be more than at the pass before.
            rows: The rows that are read, shape `[read]`; `None` for all.
            places: The place of each new token, different ones within a row, shape `[read, new]`.
            width: How many places, from 0 on, the pass attends to: more than the highest in use.
        """
        target = self._target
        target.row_count, target.rows, target.places, target.width = row_count, rows, places, width
        # Growing copies, so it grows by more than is needed, but for the rows of a first batch, which may be all.
        if row_count > target.row_capacity:
            target.row_capacity = row_count + row_count // 8 if target.row_capacity else row_count
        if width > target.capacity:
            target.capacity = width + width // 8

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keeps the rows given, in their order; one may be kept several times."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._target.row_capacity = len(beam_idx)

    def copy_row(self, source: int, target: int) -> None:
        """Writes one row over another."""
        for layer in self.layers:
            assert isinstance(layer, _SiblingLayer)
            for part in (layer.keys, layer.values):
                if part is not None:
                    part[target] = part[source]

    def store(self, cache: Cache, rows: Tensor, sources: Tensor, row_count: int) -> None:
        """Moves rows that an ordinary cache has read into this one, from place 0 on; that cache is emptied.

        Args:
            cache: The ordinary cache.
            rows: Rows to write, shape `[written]`.
            sources: For each of them the row of `cache`, shape `[written]`.
            row_count: How many rows this cache has.
        """
        for index, layer in enumerate(cache.layers):
            assert isinstance(layer, DynamicLayer)
            if layer.keys is None or layer.values is None:  # a layer that shares those of another
                continue
            width = layer.keys.shape[2]
            places = torch.arange(width, device=rows.device).expand(len(rows), -1)
            self.place_next(row_count, rows, places, width)
            on = sources.to(layer.keys.device)
            self.update(layer.keys[on], layer.values[on], index, read=False)
            layer.keys = layer.values = None


class _SiblingLayer(DynamicLayer):
    """One layer: keys and values of shape `[rows, capacity, heads, head size]`."""

    def __init__(self, target: _Target) -> None:
        super().__init__()
        self.target = target

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            part.new_zeros(self.target.row_capacity, self.target.capacity, part.shape[1], part.shape[3])
            for part in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, read: bool = True, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the new tokens to their places and returns the rows that are read, `[read, heads, width, size]`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        target = self.target
        assert self.keys is not None
        assert self.values is not None
        missing_rows, missing = target.row_capacity - self.keys.shape[0], target.capacity - self.keys.shape[1]
        if missing_rows or missing:
            self.keys, self.values = (
                F.pad(part, (0, 0, 0, 0, 0, missing, 0, missing_rows)) for part in (self.keys, self.values)
            )
        rows = None if target.rows is None else target.rows.to(self.keys.device)
        first = torch.arange(len(target.places), device=self.keys.device) if rows is None else rows
        index = (first[:, None] * target.capacity + target.places.to(self.keys.device)).flatten()
        for part, new in ((self.keys, key_states), (self.values, value_states)):
            part.flatten(0, 1).index_copy_(0, index, new.transpose(1, 2).flatten(0, 1))
        if not read:
            return key_states, value_states
        keys, values = (
            (
                part[: len(first), : target.width] if rows is None else part[:, : target.width].index_select(0, rows)
            ).transpose(1, 2)
            for part in (self.keys, self.values)
        )
        return keys, values

    def get_seq_length(self) -> int:
        """The places attended to."""
        return self.target.width if self.is_initialized else 0
