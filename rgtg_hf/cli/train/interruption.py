"""Ctrl-C or SIGTERM during training: the current step is finished and a checkpoint is saved."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

from transformers import TrainerCallback

__all__ = ["StopGently"]


class StopGently(TrainerCallback):
    """Stops training after the current step, with a checkpoint, when SIGINT or SIGTERM arrives.

    It listens for signals inside a `with` block, and must be among the trainer's callbacks. A second signal has its
    usual effect at once.

    Attributes:
        asked: Whether a signal has arrived.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopGently:
        if threading.current_thread() is threading.main_thread():  # other threads get no signals
            self._before = {which: signal.signal(which, self._ask) for which in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error: object) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)

    def _ask(self, which: int, frame: object) -> None:
        self.asked = True
        self.__exit__()
        print("rgtg-hf: stopping after this step; interrupt again to stop at once", file=sys.stderr, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks the trainer to save and to stop."""
        if self.asked:
            control.should_save = control.should_training_stop = True

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stops an evaluation at once, because it has nothing to save and may be long."""
        if self.asked:
            raise KeyboardInterrupt
