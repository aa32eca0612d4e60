"""A KV cache without columns: a row's tokens lie in slots, in any order.

Attention does not know an order of its keys. What a token means is in its position, which went into its key, and in
the mask, which says who sees it. So a candidate that was chosen stays in the slot where it was read, the slots of the
others are used again, rows grow at different paces, and nothing is ever moved or joined.
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

__all__ = ["SlotCache"]


@dataclass
class _Aim:
    """Where the tokens of the next forward pass go; the layers look here."""

    row_count: int = 0
    rows: Tensor | None = None
    slots: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.long))
    width: int = 0
    row_capacity: int = 0
    capacity: int = 0


class SlotCache(Cache):
    """Keys and values of a batch of rows, in slots. Say where the next tokens go with `aim`, then run the model."""

    def __init__(self) -> None:
        self._aim = _Aim()  # shared with the layers, which must not hold the cache itself: a circle is freed late
        super().__init__(layer_class_to_replicate=partial(_SlotLayer, self._aim))  # type: ignore[arg-type]

    def aim(self, row_count: int, rows: Tensor | None, slots: Tensor, width: int) -> None:
        """Says where the tokens of the next forward pass go.

        Args:
            row_count: How many rows the cache has. There may be more than at the pass before.
            rows: The rows that are read, shape `[read]`; `None` for all.
            slots: The slot of each new token, no two of a row alike, shape `[read, new]`.
            width: The slots from 0 on that the pass attends to: more than the highest in use.
        """
        aim = self._aim
        aim.row_count, aim.rows, aim.slots, aim.width = row_count, rows, slots, width
        # Growing copies, so it grows by more than is needed, but for the rows of a first batch, which may be all.
        if row_count > aim.row_capacity:
            aim.row_capacity = row_count + row_count // 8 if aim.row_capacity else row_count
        if width > aim.capacity:
            aim.capacity = width + width // 8

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keeps the rows given, in their order; one may be kept several times."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._aim.row_capacity = len(beam_idx)

    def copy_row(self, source: int, target: int) -> None:
        """Writes one row over another."""
        for layer in self.layers:
            assert isinstance(layer, _SlotLayer)
            for part in (layer.keys, layer.values):
                if part is not None:
                    part[target] = part[source]

    def store(self, cache: Cache, rows: Tensor, sources: Tensor, row_count: int) -> None:
        """Takes over rows that an ordinary cache has read, into the slots from 0 on; that cache is emptied.

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
            slots = torch.arange(width, device=rows.device).expand(len(rows), -1)
            self.aim(row_count, rows, slots, width)
            on = sources.to(layer.keys.device)
            self.update(layer.keys[on], layer.values[on], index, read=False)
            layer.keys = layer.values = None


class _SlotLayer(DynamicLayer):
    """One layer's slots: keys and values of shape `[rows, capacity, heads, head size]`."""

    def __init__(self, aim: _Aim) -> None:
        super().__init__()
        self.aim = aim

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            part.new_zeros(self.aim.row_capacity, self.aim.capacity, part.shape[1], part.shape[3])
            for part in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, read: bool = True, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes the new tokens to their slots and returns the rows that are read, `[read, heads, width, size]`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        aim = self.aim
        assert self.keys is not None
        assert self.values is not None
        missing_rows, missing = aim.row_capacity - self.keys.shape[0], aim.capacity - self.keys.shape[1]
        if missing_rows or missing:
            self.keys, self.values = (
                F.pad(part, (0, 0, 0, 0, 0, missing, 0, missing_rows)) for part in (self.keys, self.values)
            )
        rows = None if aim.rows is None else aim.rows.to(self.keys.device)
        first = torch.arange(len(aim.slots), device=self.keys.device) if rows is None else rows
        places = (first[:, None] * aim.capacity + aim.slots.to(self.keys.device)).flatten()
        for part, new in ((self.keys, key_states), (self.values, value_states)):
            part.flatten(0, 1).index_copy_(0, places, new.transpose(1, 2).flatten(0, 1))
        if not read:
            return key_states, value_states
        keys, values = (
            (
                part[: len(first), : aim.width] if rows is None else part[:, : aim.width].index_select(0, rows)
            ).transpose(1, 2)
            for part in (self.keys, self.values)
        )
        return keys, values

    def get_seq_length(self) -> int:
        """The slots attended to."""
        return self.aim.width if self.is_initialized else 0
