"""The memory that decoding takes: the reward model's cache, and the peak of the process or the GPU."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rgtg_hf.compat import cache_in
from rgtg_hf.rewards.parts import find_backbone


class CacheMeter:
    """The largest size of a model's cache in any forward pass, in MB."""

    def __init__(self, model: Any) -> None:
        self.backbone = find_backbone(model)
        self.megabytes = 0.0

    def __enter__(self) -> CacheMeter:
        self._hook = self.backbone.register_forward_hook(self._look, with_kwargs=True)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._hook.remove()

    def _look(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        layers = getattr(cache_in(kwargs), "layers", [])
        # The storage, not the view, so that reserved memory counts.
        held = sum(
            part.untyped_storage().nbytes()
            for layer in layers
            for part in (layer.keys, layer.values)
            if part is not None
        )
        self.megabytes = max(self.megabytes, held / 1e6)


class PeakMeter:
    """The peak memory of a block of code above the memory at its start, in MB; `None` where it is unknown."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.megabytes: float | None = None

    def __enter__(self) -> PeakMeter:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device) / 1e6
        else:
            self.before = _reset_peak()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.device.type == "cuda":
            self.megabytes = torch.cuda.max_memory_allocated(self.device) / 1e6 - self.before
        elif self.before:
            self.megabytes = _status("VmHWM") - self.before


def _reset_peak() -> float:
    """Makes Linux start over with a process's peak. Returns its memory now in MB, or 0 where that is impossible."""
    gc.collect()
    with suppress(OSError, AttributeError):  # memory that was freed before would hide memory that is needed now
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return 0.0
    return _status("VmRSS")


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return float(line.split()[1]) / 1e3  # given in kB
    return 0.0
