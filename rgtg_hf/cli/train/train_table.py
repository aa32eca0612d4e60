"""The progress of training on the terminal: a bar, and a row of figures for each log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from rgtg_hf.cli.lines import json_lines

__all__ = ["LOG_NAME", "OF_ADVANTAGES", "OF_REWARDS", "OF_VALUES", "TrainingTable"]

LOG_NAME = "training_log.jsonl"
# Each column: its head, the figure of the trainer, how it is written.
_LOSS, _RATE = ("loss", "loss", "{:.4f}"), ("learning rate", "learning_rate", "{:.1e}")
OF_REWARDS = (
    _LOSS,
    ("accuracy", "accuracy", "{:.3f}"),
    ("at the end", "accuracy_at_100", "{:.3f}"),
    ("margin", "margin", "{:.3f}"),
    _RATE,
)
OF_VALUES = (
    _LOSS,
    ("error, prompt", "squared_error_at_0", "{:.4f}"),
    ("half way", "squared_error_at_50", "{:.4f}"),
    ("at the end", "squared_error_at_100", "{:.4f}"),
    _RATE,
)
OF_ADVANTAGES = (_LOSS, ("explained", "explained", "{:.3f}"), ("gain at 1 nat", "gain_at_1_nat", "{:.4g}"), _RATE)
_WIDTH = 14  # with the ten letters of the step, a row fits a terminal of 80


class TrainingTable(TrainerCallback):
    """Shows training in place of transformers' own bar and lines, and keeps all figures in a file.

    Args:
        folder: Where `training_log.jsonl` is written, with a line for each log of the trainer.
        columns: The figures of a row: of each its head, its name in the trainer's logs, and its format.
        console: Where the table is shown. A log file gets rows without a bar.

    Example:
        ```python
        from rgtg_hf.cli.train.train_table import TrainingTable

        def train(trainer):
            with TrainingTable(trainer.args.output_dir).instead_of_others(trainer):
                trainer.train()
        ```
    """

    def __init__(
        self,
        folder: str | Path,
        columns: Sequence[tuple[str, str, str]] = OF_REWARDS,
        console: Console | None = None,
    ) -> None:
        self._columns = columns
        self.console = console or Console()
        self._log = Path(folder) / LOG_NAME
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._has_head = False

    def instead_of_others(self, trainer: Any) -> TrainingTable:
        """Adds the table to a trainer, whose own bar and lines are taken away."""
        for other in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(other)
        trainer.add_callback(self)
        return self

    def __enter__(self) -> TrainingTable:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress.tasks:  # started
            self._progress.stop()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the bar, and the file with what a run that goes on has logged before."""
        if state.is_world_process_zero:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._log.write_text(json_lines(state.log_history), encoding="utf-8")
            self._task = self._progress.add_task("training", total=state.max_steps, completed=state.global_step)
            self._progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves the bar."""
        if state.is_world_process_zero:
            self._progress.update(self._task, completed=state.global_step)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Says that an evaluation is going on."""
        if state.is_world_process_zero and self._progress.tasks:
            self._progress.update(self._task, description="evaluating")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Says that training goes on."""
        if state.is_world_process_zero and self._progress.tasks:
            self._progress.update(self._task, description="training")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Prints a row, and writes all figures to the file."""
        if not state.is_world_process_zero or not logs:
            return
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json_lines([state.log_history[-1] if state.log_history else logs]))
        prefix = next((prefix for prefix in ("", "eval_") if f"{prefix}loss" in logs), None)
        if prefix is None:
            return
        if not self._has_head:
            self._has_head = True
            self._print("step", [head for head, _, _ in self._columns])
        values = [logs.get(prefix + name) for _, name, _ in self._columns]
        shown = [
            "" if value is None else form.format(float(value))
            for value, (_, _, form) in zip(values, self._columns, strict=True)
        ]
        self._print(f"{state.global_step}{' eval' if prefix else ''}", shown)

    def _print(self, first: str, others: list[str]) -> None:
        cells = "".join(cell.rjust(_WIDTH) for cell in others)
        self._progress.console.print(f"{first:<10}{cells}".rstrip(), highlight=False, markup=False)
