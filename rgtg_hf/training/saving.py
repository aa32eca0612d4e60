"""Saves an ordinary checkpoint, and beside it everything that others need to steer with it."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput, TrainOutput

from rgtg_hf.files import write_whole
from rgtg_hf.private_names import forget_preparation
from rgtg_hf.rewards.load import BASE_CONFIG
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.training.card import GUIDANCE, data_name, kind_of, model_card
from rgtg_hf.training.resume import RUN_FILE, check_resume, describe_run, last_checkpoint
from rgtg_hf.training.shared_config import SharedConfig

__all__ = ["TAGS", "SavingTrainer", "base_name"]

TAGS = ["trl", "reward-trainer", "prefix-reward-model", "rgtg-hf"]
CARD_SETTINGS = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "learning_rate", "max_length")


def base_name(model: Any) -> str:
    """Returns the name that a model was loaded by, or the hub name of a head's policy, for the model card."""
    if isinstance(model, str):
        return model
    policy = getattr(model.config, "policy", None) if isinstance(model, NextTokenRewardModel) else None
    if policy is None:
        return model.config.name_or_path
    # A head whose policy was loaded from a folder knows no more than the folder's name.
    return policy["name"] if "/" in policy["name"] else ""


class SavingTrainer(Trainer):
    """The saving, the model card, the resuming and the figures of training on prefixes."""

    # Losses are divided by the weight of the whole step (see get_batch_samples of the trainers), so the Trainer must
    # not divide them by the number of batches in the step again.
    loss_is_scaled_for_ga: Any = True

    _own_tags: Sequence[str] = ()
    _save_curves: Callable[[dict[str, dict], Path], None]  # files and pictures of the evaluations, into a folder
    _curves_file: str = ""  # the name of its numbers
    args: SharedConfig  # type: ignore[assignment]
    model: Any

    def __init__(self, *args: Any, base_model: str, **kwargs: Any) -> None:
        self._base_model = base_model
        self._data_name = data_name(kwargs.get("train_dataset"))
        self.curves: dict[str, dict] = {}
        self._best_loaded_at: int | None = None  # the length of the log when the best checkpoint was loaded
        # Values of each row, by metric, since the last log.
        self._values: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # `loss_is_scaled_for_ga` to transformers before 5.19
        # Some versions of transformers let accelerate divide the loss by the number of batches once more.
        self.accelerator.gradient_accumulation_steps = 1

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Trains as the Trainer does. A checkpoint of another run is refused; `True` means the last complete one.

        Where the best checkpoint is loaded at the end, what is saved about evaluations is that of its own.
        """
        self._best_loaded_at = None
        if self.accelerator.num_processes > 1 and self.model_wrapped is self.model:
            forget_preparation(self.model)
        if resume_from_checkpoint:
            checkpoint: Any = resume_from_checkpoint
            if checkpoint is True:
                checkpoint = last_checkpoint(str(self.args.output_dir))
            if checkpoint is None:
                raise ValueError(f"There is no checkpoint to resume from in {self.args.output_dir!r}.")
            check_resume(checkpoint, self._describe_run())
            resume_from_checkpoint = checkpoint
        output = super().train(resume_from_checkpoint, *args, **kwargs)
        best = self.state.best_model_checkpoint
        if self.args.load_best_model_at_end and best is not None:
            self._best_loaded_at = len(self.state.log_history)
            file = Path(best, self._curves_file)
            if file.is_file():
                self.curves = json.loads(file.read_text(encoding="utf-8"))
                self._use_curves()
        return output

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates as the Trainer does, and saves the curves."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.curves:
            self._use_curves()
        return metrics

    def _use_curves(self) -> None:
        """Saves the curves of the weights as they are."""
        if self.is_world_process_zero():
            self._save_curves(self.curves, Path(str(self.args.output_dir)))

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Predicts as the Trainer does. The curves stay those of the last evaluation."""
        curves = dict(self.curves)
        try:
            return super().predict(test_dataset, *args, **kwargs)
        finally:
            self.curves = curves

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluates one data set; its metrics depend on its rows alone, however they were put into batches."""
        values = self._values["eval"]
        values.clear()
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
        )
        if values:
            loss = sum(values.pop("loss_sum")) / sum(values.pop("weight_sum"))
            if (curve := self._curve(values)) is not None:
                self.curves[metric_key_prefix] = curve
            metrics = {"loss": loss} | self._means(values)
            named = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
            all_metrics: Any = output.metrics
            all_metrics.update(named)
        return output

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Makes a loader as the Trainer does; the responses of a data set that is given here are located now."""
        return super().get_eval_dataloader(self._located(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Makes a loader as the Trainer does; the responses of the data set are located now."""
        return super().get_test_dataloader(self._located(test_dataset))

    def _located(self, dataset: Any) -> Any:
        """A data set for evaluation as the collator takes it. Prepared ones and names of them stay as they are."""
        raise NotImplementedError

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """Takes the batches of a step. The second value is the weight of all that counts in them, over all processes.

        Dividing by this total makes the loss the mean over the step, however it is cut into batches and processes.
        """
        batches, total = super().get_batch_samples(epoch_iterator, num_batches, device)
        weights = [own.sum() for batch in batches if (own := self._weights_of(batch)) is not None]
        if weights:
            total = self.accelerator.gather(torch.stack(weights).sum().to(device)).sum()
        return batches, total

    def _weights_of(self, batch: dict[str, Any]) -> Tensor | None:
        """How much each loss of a batch counts."""
        return batch["weights"]

    def _mean_loss(self, losses: Tensor, weights: Tensor, total: Tensor | int | None) -> Tensor:
        """This batch's share of the mean over the step, whose total weight is given, or its own mean."""
        # The losses and gradients of processes are averaged, not added.
        whole = weights.sum() if total is None else total / self.accelerator.num_processes
        return (weights * losses).sum() / whole

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as the Trainer does; in training with the means since the last log."""
        if self.model.training and self._values["train"]:
            logs |= self._means(self._values["train"])
            self._values["train"].clear()
        super().log(logs, start_time)

    def _curve(self, values: dict[str, list[float]]) -> dict[str, Any] | None:
        """Takes those values of each row out that are drawn after an evaluation, and puts them together."""
        return None

    def _means(self, values: dict[str, list[float]]) -> dict[str, float]:
        """Averages each metric over rows."""
        return {name: sum(of_rows) / len(of_rows) for name, of_rows in values.items()}

    def _describe_run(self) -> dict[str, Any]:
        return describe_run(self.args, self.model.config, self.train_dataset)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves an ordinary checkpoint, and with it a card, `guidance_config.json` and the curves of evaluations."""
        directory = Path(output_dir or str(self.args.output_dir))
        if self.is_world_process_zero():
            directory.mkdir(parents=True, exist_ok=True)
            write_whole(directory / "guidance_config.json", json.dumps(self._guidance(), indent=2) + "\n")
            write_whole(directory / RUN_FILE, json.dumps(self._describe_run(), indent=2) + "\n")
            if self._is_adapter():
                # An adapter alone does not say how many layers and labels its model has, nor its padding token.
                self.accelerator.unwrap_model(self.model).config.save_pretrained(directory / BASE_CONFIG)
            if self.curves:
                self._save_curves(self.curves, directory)
            self._card().save(directory / "README.md")
        super().save_model(output_dir, _internal_call)
        if self.is_world_process_zero():
            if self._is_adapter() and os.path.isdir(self._base_model):
                self._card().save(directory / "README.md")  # PEFT has written the folder's path into it
            # A pickle of the settings, paths included, which nothing needs.
            (directory / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def create_model_card(  # type: ignore[override]
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Writes README.md into the output directory, with code that steers rather than classifies."""
        if dataset_name is not None:
            self.args.training_data = dataset_name
        if self.is_world_process_zero():
            card = self._card(model_name, [tags] if isinstance(tags, str) else tags or [])
            card.save(Path(str(self.args.output_dir)) / "README.md")

    def _card(self, model_name: str | None = None, tags: Sequence[str] = ()) -> ModelCard:
        folder = Path(str(self.args.output_dir)).name
        model_id = self.hub_model_id or self.args.hub_model_id or folder
        metrics: dict[str, float] = {}
        for entry in self._log_of_weights():
            metrics |= {name: value for name, value in entry.items() if name.startswith("eval_")}
        run = self._describe_run()
        run.pop("rows_sha256", None)
        settings = {name: getattr(self.args, name) for name in CARD_SETTINGS}
        return model_card(
            name=model_name or model_id.split("/")[-1],
            model_id=model_id,
            base_model=self._base_model,
            dataset_name=self.args.training_data or self._data_name,
            tags=[*TAGS, *self._own_tags, *tags],
            metrics=metrics,
            settings=run | settings,
            kind=self._kind(),
            guidance=self._guidance(),
        )

    def _log_of_weights(self) -> list[dict[str, float]]:
        """The log without what was measured of later weights, where the best were loaded."""
        log, at = self.state.log_history, self._best_loaded_at
        if at is None or self.state.best_global_step is None:
            return log
        return [entry for entry in log[:at] if entry["step"] <= self.state.best_global_step] + log[at:]

    def _keep_values(self, mode: str, values: dict[str, Tensor]) -> None:
        """Keeps the metrics of each row, so that averages do not depend on how rows were put into batches."""
        table = self.accelerator.gather_for_metrics(torch.stack(list(values.values()), dim=1))
        for name, column in zip(values, table.T.tolist(), strict=True):
            self._values[mode][name].extend(column)

    def _guidance(self) -> dict[str, Any]:
        """The settings of guidance to begin with."""
        return GUIDANCE[self._kind()]

    def _kind(self) -> str:
        return kind_of(self.model.config.to_dict(), is_adapter=self._is_adapter())

    def _is_adapter(self) -> bool:
        return bool(getattr(self.model, "peft_config", None))
