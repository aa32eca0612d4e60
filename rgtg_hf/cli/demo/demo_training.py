"""The demo's reward model or steering head: trained with a progress bar, or taken from an earlier run."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PrinterCallback, TrainerCallback

from rgtg_hf.cli.demo.demo_rows import pairs_fingerprint, preference_pairs, tokenize_pair
from rgtg_hf.cli.output_dir import claim_output_dir, read_marker, write_marker

__all__ = ["head_notes", "reward_model_notes", "train_for_demo"]

_HEAD_PAIRS = 200


def reward_model_notes(policy: str, num_layers: int, max_steps: int, seed: int) -> dict[str, Any]:
    """The settings that the trained reward model depends on. A reward model with the same notes is used again."""
    return {
        "kind": "reward model",
        "policy": policy,
        "pairs": pairs_fingerprint(),
        "num_pairs": len(preference_pairs()),
        "num_layers": num_layers,
        "epochs": 1,
        "max_steps": max_steps,
        "batch_size": 8,
        "learning_rate": 1e-4,
        "seed": seed,
    }


def head_notes(policy: str, max_steps: int, seed: int) -> dict[str, Any]:
    """The same for a steering head, which needs fewer pairs: what takes the time is to read them with the policy."""
    return {
        "kind": "steering head",
        "policy": policy,
        "pairs": pairs_fingerprint(),
        "num_pairs": min(_HEAD_PAIRS, len(preference_pairs())),
        "epochs": 3,
        "max_steps": max_steps,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "seed": seed,
    }


def train_for_demo(
    folder: Path, policy: Any, path: str, tokenizer: Any, notes: dict[str, Any], console: Console, *, retrain: bool
) -> dict[str, Any]:
    """Trains a reward model or a steering head into `folder`, unless a finished one with the same notes is there.

    Args:
        folder: Its folder.
        policy: The policy, for a head.
        path: Folder or hub name of the policy, from whose first layers a reward model starts.
        tokenizer: The policy's tokenizer.
        notes: The result of [`reward_model_notes`] or [`head_notes`].
        console: Shows the progress bar.
        retrain: Train even if there is a finished reward model.

    Returns:
        `seconds`, and `accuracy` over the prefixes of the last quarter of the training steps (their pairs were not
        seen before).
    """
    marker = read_marker(folder) or {}
    if not retrain and marker.get("finished") and marker.get("notes") == notes:
        console.print(f"Using the {notes['kind']} of an earlier run in {folder} (--retrain makes a new one).")
        return marker["training"]
    claim_output_dir(folder, finished=False)

    import datasets

    from rgtg_hf.rewards.next_token import NextTokenRewardModel
    from rgtg_hf.training.prefix_reward_config import PrefixRewardConfig
    from rgtg_hf.training.trainer import PrefixRewardTrainer

    is_head = notes["kind"] == "steering head"
    size = "" if is_head else f" of {notes['num_layers']} layers"
    console.print(f"Training a {notes['kind']}{size} on {notes['num_pairs']} pairs.")
    datasets.disable_progress_bars()
    # Pairs of a prompt stand together, so a part of them is taken from all over.
    rows = preference_pairs()[:: len(preference_pairs()) // notes["num_pairs"]][: notes["num_pairs"]]
    pairs = datasets.Dataset.from_list([tokenize_pair(row, tokenizer) for row in rows])
    scratch = folder.with_name(f"{folder.name}.training")
    settings = PrefixRewardConfig(
        output_dir=str(scratch),
        num_layers=notes.get("num_layers"),
        num_train_epochs=notes["epochs"],
        max_steps=notes["max_steps"],
        per_device_train_batch_size=notes["batch_size"],
        learning_rate=notes["learning_rate"],
        seed=notes["seed"],
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        max_length=None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    start = time.perf_counter()
    model: Any = NextTokenRewardModel.from_policy(policy) if is_head else path
    trainer = PrefixRewardTrainer(model=model, args=settings, train_dataset=pairs, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)  # the progress bar replaces its log lines
    with _progress(console) as progress:
        bar = _BarCallback(progress)
        trainer.add_callback(bar)
        trainer.train()
    summary = {"seconds": round(time.perf_counter() - start, 1), "accuracy": round(bar.last_quarter_accuracy(), 4)}
    # `Trainer.save_model` would also write a pickle of its settings.
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(scratch, ignore_errors=True)
    write_marker(folder, finished=True, notes=notes, training=summary)
    return summary


class _BarCallback(TrainerCallback):
    """Shows the trainer's steps on a progress bar, with the latest loss and accuracy."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.accuracies: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.task = self.progress.add_task("Training", total=state.max_steps, figures="")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.accuracies.append(float(logs["accuracy"]))
            recent = self.accuracies[-10:]
            figures = f"loss {float(logs['loss']):.3f}  accuracy {sum(recent) / len(recent):.2f}"
            self.progress.update(self.task, figures=figures)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)
        # A log file shows no bar, so a line is printed every 25 steps.
        if not self.progress.console.is_terminal and state.global_step % 25 == 0:
            figures = self.progress.tasks[self.task].fields["figures"]
            self.progress.console.print(f"Training step {state.global_step} of {state.max_steps}  {figures}")

    def last_quarter_accuracy(self) -> float:
        last = self.accuracies[-max(1, len(self.accuracies) // 4) :]
        return sum(last) / len(last)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
    )
