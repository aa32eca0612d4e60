"""Counts how often the host looks at the device, as a GPU would have to wait for it."""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LOOKS = {
    getattr(Tensor, name)
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__")
} | {getattr(place, name) for place in (torch, Tensor) for name in ("equal", "nonzero", "masked_select", "unique")}
_COPIES = {torch.tensor, torch.as_tensor}  # of Python's numbers to the device
_INDEXING = {Tensor.__getitem__, Tensor.__setitem__}


class Looks(TorchFunctionMode):
    """A block in which looks are counted: scalar reads, copies in either direction, and shapes that depend on values.

    Attributes:
        count: How many there were.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        is_look = func in _LOOKS or (func in _COPIES and not isinstance(args[0], (Tensor, int, float)))
        if func in _INDEXING:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            is_look = any(isinstance(part, list) or getattr(part, "dtype", None) == torch.bool for part in index)
        self.count += is_look
        if not is_look:
            return func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():  # what it does inside is part of it
            return func(*args, **(kwargs or {}))
