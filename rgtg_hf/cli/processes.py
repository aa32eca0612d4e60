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
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(device=device)
    from accelerate import PartialState

    # Processes finish at different times: those that wait must not give up.
    state = PartialState(cpu=device == "cpu", timeout=timedelta(days=30))
    return Processes(state.process_index, state.num_processes, device or str(state.device), state.wait_for_everyone)
