"""The processes of one run, as `accelerate launch` starts them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["Processes", "join_processes"]


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work.

    Attributes:
        index: Which one this is, from 0. Process 0 speaks for all.
        count: How many there are.
        device: Where this one's models belong; None to leave the choice to others.
        wait: Returns when all processes have called it.
    """

    index: int = 0
    count: int = 1
    device: str | None = None
    wait: Callable[[], None] = lambda: None


def join_processes(device: str | None = None) -> Processes:
    """Finds out what `accelerate launch` or `torchrun` started; a process by itself if nothing did.

    Args:
        device: The device that the user asked for; each process is given its own where none was.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes(device=device)
    import torch
    from torch import distributed

    if device is None and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if not distributed.is_initialized():
        # Nothing but "all are here" is ever exchanged. Processes finish at different times: none may give up waiting.
        distributed.init_process_group("gloo", timeout=timedelta(days=30))
    return Processes(distributed.get_rank(), count, device, distributed.barrier)
