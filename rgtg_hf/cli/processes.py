"""The processes of one run, as `accelerate launch` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["Processes", "join_processes"]


@dataclass(frozen=True)
class Processes:
    """This process and the number of processes that share the work.

    Attributes:
        index: Number of this process, from 0. Process 0 writes the messages and the final files.
        count: Number of processes.
        device: Device of this process's models; None for the default.
        wait: Returns when all processes have called it.
    """

    index: int = 0
    count: int = 1
    device: str | None = None
    wait: Callable[[], None] = lambda: None

    @property
    def own_device(self) -> str:
        """The device by name: the chosen one, else the GPU if there is one, else the CPU."""
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")


def join_processes(device: str | None = None) -> Processes:
    """Joins the processes that `accelerate launch` or `torchrun` started. Without either, there is one process.

    Args:
        device: The device that the user chose. If unset, each process gets its own GPU.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes(device=device)
    import torch
    from torch import distributed

    if device is None and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if not distributed.is_initialized():
        # The processes only wait for each other. They may finish at very different times, so the limit is high.
        distributed.init_process_group("gloo", timeout=timedelta(days=30))
    return Processes(distributed.get_rank(), count, device, distributed.barrier)
