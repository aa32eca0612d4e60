"""Keys and values of a batch of rows, in memory that is allocated once and written in place.

A token of a row lies in the column of its position. Whatever is read behind the end of a row is written over later, so
nothing is ever moved, cut or joined, and rows may have any lengths.
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

__all__ = ["RowBuffer", "capacity_for"]

_COLUMNS_AT_ONCE = 64  # capacities are multiples of this, so that few steps have to grow
_SMALLEST_FIXED = 128


def capacity_for(width: int, fixed: bool = False) -> int:
    """How many columns are allocated for so many.

    Args:
        width: The columns that are needed.
        fixed: Whether every pass attends to all that are allocated. Then it is a power of two, so that the shape
            changes seldom. Otherwise it is an eighth more, since growing copies.
    """
    if fixed:
        return max(_SMALLEST_FIXED, 1 << (width - 1).bit_length())
    return -(-(width + width // 8) // _COLUMNS_AT_ONCE) * _COLUMNS_AT_ONCE


@dataclass
class _Target:
    """Where the tokens of the next pass go; all layers share it."""

    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    rows: Tensor | None = None
    width: int = 0
    row_capacity: int = 0
    capacity: int = 0
    allocations: int = 0


class RowBuffer(Cache):
    """The cache of a batch of rows. Call `place_next` to say where the next tokens go, then run the model.

    Args:
        fixed: Whether every pass attends to all columns, so that shapes and addresses seldom change, as a recorded
            pass requires.
    """

    def __init__(self, fixed: bool = False) -> None:
        self._fixed = fixed
        self._target = _Target()  # the layers hold this and not the cache: a reference cycle would be freed late
        super().__init__(layer_class_to_replicate=partial(_BufferLayer, self._target))  # type: ignore[arg-type]

    @property
    def allocations(self) -> int:
        """How often memory was allocated: as long as this stays the same, keys and values stay where they are."""
        return self._target.allocations

    @property
    def row_capacity(self) -> int:
        """How many rows there is memory for."""
        return self._target.row_capacity

    def width_for(self, width: int) -> int:
        """How many columns a pass attends to that needs so many."""
        return max(self._target.capacity, capacity_for(width, fixed=True)) if self._fixed else width

    def place_next(self, row_count: int, columns: Tensor, width: int, rows: Tensor | None = None) -> None:
        """Says where the tokens of the next pass go.

        Args:
            row_count: How many rows there are. There may be more than at the pass before.
            columns: The column of each new token, shape `[read, new]`.
            width: How many columns the pass attends to: more than the last one that is written.
            rows: The rows that are read, shape `[read]`; `None` for all.
        """
        target = self._target
        # Growing copies, so it grows by more than is needed, but for the rows of a first batch, which may be all.
        if row_count > target.row_capacity:
            target.row_capacity = row_count + row_count // 8 if target.row_capacity else row_count
        if width > target.capacity:
            target.capacity = capacity_for(width, self._fixed)
        first = torch.arange(len(columns), device=columns.device) if rows is None else rows
        target.index = (first[:, None] * target.capacity + columns).flatten()
        target.rows, target.width = rows, width

    def keep_rows(self, rows: Tensor) -> None:
        """Keeps the rows given, in their order; one may be kept several times."""
        in_place = self._fixed and len(rows) == self._target.row_capacity
        for layer in self.layers:
            if isinstance(layer, _BufferLayer) and layer.is_initialized:
                kept = [part.index_select(0, rows.to(part.device)) for part in layer.parts()]
                if in_place:
                    for part, new in zip(layer.parts(), kept, strict=True):
                        part.copy_(new)
                else:
                    layer.keys, layer.values = kept
        if not in_place:
            self._target.row_capacity = len(rows)
            self._target.allocations += 1

    def copy_row(self, source: int, target: int) -> None:
        """Writes one row over another."""
        for layer in self.layers:
            if isinstance(layer, _BufferLayer) and layer.is_initialized:
                for part in layer.parts():
                    part[target] = part[source]


class _BufferLayer(DynamicLayer):
    """One layer: keys and values of shape `[rows, capacity, heads, head size]`."""

    def __init__(self, target: _Target) -> None:
        super().__init__()
        self.target = target

    def parts(self) -> tuple[Tensor, Tensor]:
        """Keys and values."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        rows, columns = self.target.row_capacity, self.target.capacity
        self.keys, self.values = (
            part.new_zeros(rows, columns, part.shape[1], part.shape[3]) for part in (key_states, value_states)
        )
        self.is_initialized = True
        self.target.allocations += 1

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes the new tokens to their columns and returns the rows that are read, `[read, heads, width, size]`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        target, (keys, values) = self.target, self.parts()
        missing_rows, missing = target.row_capacity - keys.shape[0], target.capacity - keys.shape[1]
        if missing_rows or missing:
            more = (0, 0, 0, 0, 0, missing, 0, missing_rows)
            self.keys, self.values = keys, values = F.pad(keys, more), F.pad(values, more)
            target.allocations += 1
        index = target.index.to(keys.device)  # layers may be on several devices
        for part, new in ((keys, key_states), (values, value_states)):
            part.flatten(0, 1).index_copy_(0, index, new.transpose(1, 2).flatten(0, 1))
        read = len(key_states)
        if target.rows is None:
            found = [part[:read, : target.width] for part in (keys, values)]
        else:
            found = [part[:, : target.width].index_select(0, target.rows.to(part.device)) for part in (keys, values)]
        return found[0].transpose(1, 2), found[1].transpose(1, 2)

    def get_seq_length(self) -> int:
        """The columns attended to."""
        return self.target.width if self.is_initialized else 0
