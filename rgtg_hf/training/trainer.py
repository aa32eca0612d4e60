"""`PrefixRewardTrainer`: TRL's reward trainer, with the loss of all prefixes."""

from __future__ import annotations

import copy
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl import RewardTrainer

from rgtg_hf.rewards.prefix_rewards import capture_position_rewards, find_score_head
from rgtg_hf.training.config import PrefixRewardConfig
from rgtg_hf.training.data import PrefixCollator, check_rows, locate_responses
from rgtg_hf.training.loss import (
    align_prefixes,
    prefix_losses,
    prefix_metrics,
    prefix_weights,
    rewards_at_fraction,
)
from rgtg_hf.training.models import load_reward_model

__all__ = ["PrefixRewardTrainer"]

logger = logging.getLogger(__name__)


class PrefixRewardTrainer(RewardTrainer):
    """Trains a reward model on every prefix of preferred and rejected responses.

    A drop-in for `trl.RewardTrainer`: the same arguments, the same data, about the same cost per step. All prefixes'
    rewards come from one forward pass, since a causal model's score at position i has read nothing but the tokens up
    to i. What is saved is an ordinary `*ForSequenceClassification` checkpoint.

    Args:
        model: A causal sequence classifier with one label, a `PeftModel` of one, or the name of a checkpoint (a
            causal LM gets a fresh head).
        args: Settings. Defaults to `PrefixRewardConfig` with its defaults.
        train_dataset: Preference rows, in any form that TRL's reward trainer takes. Also `eval_dataset`.
        processing_class: The tokenizer. Defaults to the model's.
        kwargs: All other arguments of `trl.RewardTrainer`.

    Raises:
        ValueError: Before any training, if a data set is empty, lacks `chosen` or `rejected`, or has only rows that
            are dropped; if the model has not exactly one label or no score at every position; if a LoRA setup would
            leave the score head untrained.

    Metrics, besides TRL's: `accuracy` and `margin` over all prefixes; `accuracy_at_25`, `margin_at_25` and so on at
    25, 50, 75 and 100 percent of each response. `min_reward`, `mean_reward` and `max_reward` are those of whole
    responses.

    Example:
        ```python
        from datasets import load_dataset
        from rgtg_hf import PrefixRewardConfig, PrefixRewardTrainer

        trainer = PrefixRewardTrainer(
            model="HuggingFaceTB/SmolLM2-135M-Instruct",
            args=PrefixRewardConfig(output_dir="reward-model", num_layers=10),
            train_dataset=load_dataset("trl-lib/ultrafeedback_binarized", split="train"),
        )
        trainer.train()
        trainer.save_model()
        ```
    """

    _tag_names = ["trl", "reward-trainer", "prefix-reward-model", "rgtg-hf"]  # noqa: RUF012  TRL's own form
    _name = "PARGS prefix reward training"
    _paper = {  # noqa: RUF012
        "title": "A Critical Look At Tokenwise Reward-Guided Text Generation",
        "id": "2406.07780",
        "citation": (
            "@inproceedings{rashid2025critical,\n"
            "  title     = {A Critical Look At Tokenwise Reward-Guided Text Generation},\n"
            "  author    = {Rashid, Ahmad and Wu, Ruotian and Grosse, Julia and Kristiadi, Agustinus and "
            "Poupart, Pascal},\n"
            "  booktitle = {Conference on Language Modeling},\n"
            "  year      = {2025},\n"
            "  url       = {https://arxiv.org/abs/2406.07780}\n"
            "}"
        ),
    }
    # The loss is divided by the weight of the whole step (see get_batch_samples), so the Trainer must not divide it by
    # the number of batches in the step again.
    loss_is_scaled_for_ga = True

    args: PrefixRewardConfig
    model: nn.Module
    processing_class: Any
    eval_dataset: Any
    _metric_key_prefix = "eval"

    def __init__(
        self,
        model: Any,
        args: PrefixRewardConfig | None = None,
        data_collator: Any | None = None,
        train_dataset: Any | None = None,
        eval_dataset: Any | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = PrefixRewardConfig(f"{name.split('/')[-1] or 'model'}-prefix-reward")
        elif not isinstance(args, PrefixRewardConfig):
            raise TypeError(f"`args` is a {type(args).__name__}. PrefixRewardTrainer needs a PrefixRewardConfig.")
        datasets = _named("training", train_dataset) | _named("evaluation", eval_dataset)
        for name, dataset in datasets.items():
            check_rows(dataset, name)
        _check_lora(kwargs.get("peft_config"))
        if isinstance(model, str) and args.num_layers is not None:
            args = copy.copy(args)
            init_kwargs: Any = args.model_init_kwargs or {}
            model_kwargs = {"trust_remote_code": args.trust_remote_code, **init_kwargs}
            args.model_init_kwargs = None
            if kwargs.get("quantization_config") is not None:
                model_kwargs["quantization_config"] = kwargs.pop("quantization_config")
            if processing_class is None:
                processing_class = AutoTokenizer.from_pretrained(
                    model, revision=model_kwargs.get("revision"), trust_remote_code=args.trust_remote_code
                )
            model = load_reward_model(model, args.num_layers, seed=args.seed, **model_kwargs)
        elif args.num_layers is not None:
            logger.warning("`num_layers` is ignored: the model is built already. Give its name instead.")
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        _check_head(self.model)
        # TRL has tokenized the rows and dropped those that are too long. Where responses begin and end is added here.
        self.train_dataset = self._locate_responses(self.train_dataset, "training", before=train_dataset)
        if isinstance(eval_dataset, dict):
            self.eval_dataset = type(self.eval_dataset)(
                {
                    key: self._locate_responses(dataset, key, before=eval_dataset[key])
                    for key, dataset in self.eval_dataset.items()
                }
            )
        elif eval_dataset is not None:
            self.eval_dataset = self._locate_responses(self.eval_dataset, "evaluation", before=eval_dataset)
        if data_collator is None:
            multiple: Any = self.args.pad_to_multiple_of
            self.data_collator = PrefixCollator(self.processing_class.pad_token_id, multiple)

    def _locate_responses(self, dataset: Any, name: str, before: Any = None) -> Any:
        """Prepares one data set, and says in one line which rows were dropped and why."""
        dropped: Counter = Counter()
        if isinstance(dataset, Dataset) and isinstance(before, Dataset) and len(dataset) < len(before):
            dropped["too long"] = len(before) - len(dataset)
        if not isinstance(dataset, Dataset) or len(dataset):
            with self.args.main_process_first(desc="locating responses"):
                dataset, more = locate_responses(dataset, self.processing_class, self.args.dataset_num_proc)
            dropped += more
        counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        if isinstance(dataset, Dataset) and len(dataset) == 0:
            raise ValueError(
                f"No row of the {name} data set is left: {counts}. Rows are dropped if `chosen` equals `rejected`, if "
                f"one of them is empty, or if one is longer than `max_length` ({self.args.max_length}) tokens."
            )
        if dropped and self.is_world_process_zero():
            logger.warning("Dropped %d rows of the %s data set: %s.", dropped.total(), name, counts)
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns: Any = ["chosen_ids", "rejected_ids", "prompt_length", "margin"]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As in TRL, for prepared sets and for new ones in any of its forms."""
        for name, dataset in _named("evaluation", eval_dataset).items():
            check_rows(dataset, name)
        self._metric_key_prefix = metric_key_prefix
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in TRL, but each of several evaluation sets has names of its own: `eval_a_accuracy`, `eval_b_accuracy`.

        The loss of an evaluation is the mean over all prefixes of the set, however they fell into batches.
        """
        metrics = self._metrics["eval"]
        if not self.model.training and metrics:
            prefix = self._metric_key_prefix
            logs[f"{prefix}_loss"] = sum(metrics.pop("loss_sum")) / sum(metrics.pop("weight_sum"))
            if prefix.startswith("eval_"):
                name = prefix.removeprefix("eval_")
                self._metrics["eval"] = defaultdict(list, {f"{name}_{key}": metrics[key] for key in metrics})
        super().log(logs, start_time)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """As in the Trainer. A data set given here has been tokenized; its responses are located now."""
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            columns = eval_dataset.column_names or next(iter(eval_dataset))
            if "prompt_length" not in columns:
                eval_dataset = self._locate_responses(eval_dataset, "evaluation")
        return super().get_eval_dataloader(eval_dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor | int | None]:
        """Weighs the prefixes of a step's batches; the second value is their total weight, over all processes.

        Dividing by this total makes the loss the mean over all prefixes of the step, however the step is cut into
        batches and processes.
        """
        batches, total = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and "prompt_length" in batches[0]:
            for batch in batches:
                batch["prefix_weights"] = self._prefix_weights(batch, self.args.prefixes)
            total = sum(batch["prefix_weights"].sum() for batch in batches)
            total = self.accelerator.gather(total.to(device)).sum()
        return batches, total

    def _prefix_weights(self, batch: dict[str, Tensor], prefixes: str) -> Tensor:
        row_seeds: list[int] = []
        if prefixes == "random":
            # A draw depends on seed, step and tokens alone: the same on any number of processes, and after resuming.
            place = torch.arange(1, batch["input_ids"].shape[1] + 1, device=batch["input_ids"].device)
            checksums = (batch["input_ids"] * batch["attention_mask"] * place).sum(1).view(2, -1).sum(0).tolist()
            row_seeds = [hash((self.args.seed, self.state.global_step, checksum)) for checksum in checksums]
        return prefix_weights(
            batch["response_length"],
            batch["input_ids"].shape[1],
            after_end=self.args.after_end,
            prefixes=prefixes,
            prefix_stride=self.args.prefix_stride,
            prefixes_per_pair=self.args.prefixes_per_pair,
            position_weights=self.args.position_weights,
            shared_length=batch["shared_length"] if self.args.from_first_difference else None,
            row_seeds=row_seeds,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The prefix Bradley-Terry loss of a batch of pairs, see [`rgtg_hf.training.loss`]."""
        mode = "train" if self.model.training else "eval"
        weights = inputs.get("prefix_weights")
        total = num_items_in_batch
        if weights is None:
            # Evaluation looks at all prefixes: its figures should not depend on a draw.
            weights = self._prefix_weights(inputs, "all" if self.args.prefixes == "random" else self.args.prefixes)
        if total is not None:
            # The gradients and losses of processes are averaged, not added.
            total = total / self.accelerator.num_processes

        with capture_position_rewards(model) as captured:
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        chosen, rejected = align_prefixes(captured[0], inputs["prompt_length"], inputs["response_length"])
        losses = prefix_losses(
            chosen,
            rejected,
            margin=inputs.get("margin"),
            center_rewards_coefficient=self.args.center_rewards_coefficient,
        )
        loss = (weights * losses).sum() / (weights.sum() if total is None else total)
        with torch.no_grad():
            self._record(mode, inputs, chosen, rejected, losses, weights)
        return (loss, outputs) if return_outputs else loss

    def _record(
        self,
        mode: str,
        inputs: dict[str, Tensor],
        chosen: Tensor,
        rejected: Tensor,
        losses: Tensor,
        weights: Tensor,
    ) -> None:
        """Adds the batch's metrics, pair by pair, so that averages do not depend on how pairs fell into batches."""
        chosen_length, rejected_length = inputs["response_length"].chunk(2)
        values = prefix_metrics(chosen, rejected, inputs["response_length"])
        values["chosen_reward"] = rewards_at_fraction(chosen, chosen_length, 1)
        values["rejected_reward"] = rewards_at_fraction(rejected, rejected_length, 1)
        values["loss_sum"] = (weights * losses).sum(1)
        values["weight_sum"] = weights.sum(1)
        table = self.accelerator.gather_for_metrics(torch.stack(list(values.values()), dim=1))
        metrics = self._metrics[mode]
        columns = dict(zip(values, table.T.tolist(), strict=True))
        whole = columns.pop("chosen_reward") + columns.pop("rejected_reward")
        if mode == "train":
            # The Trainer logs the training loss itself.
            del columns["loss_sum"], columns["weight_sum"]
            tokens = self.accelerator.gather(inputs["attention_mask"].sum())
            self._total_train_tokens += tokens.sum().item()
        for name, column in columns.items():
            metrics[name].extend(column)
        metrics["min_reward"].append(min(whole))
        metrics["mean_reward"].extend(whole)
        metrics["max_reward"].append(max(whole))
        metrics["num_tokens"] = [self._total_train_tokens]


def _named(kind: str, dataset: Any) -> dict[str, Any]:
    if dataset is None or isinstance(dataset, str):
        return {}
    if isinstance(dataset, dict):
        return {f"{kind} ({key})": value for key, value in dataset.items()}
    return {kind: dataset}


def _check_lora(peft_config: Any) -> None:
    """PEFT freezes a fresh score head, and leaves it out of the checkpoint, unless it is told about it."""
    if peft_config is None:
        return
    task_type = getattr(peft_config.task_type, "value", peft_config.task_type)
    if task_type != "SEQ_CLS" and "score" not in (getattr(peft_config, "modules_to_save", None) or []):
        raise ValueError(
            f"The PEFT configuration has task_type={task_type!r}, which would leave the score head at random values, "
            'untrained and unsaved. Set `task_type="SEQ_CLS"` (`--lora_task_type SEQ_CLS` on the command line).'
        )


def _check_head(model: nn.Module) -> None:
    if not any(parameter.requires_grad for parameter in find_score_head(model).parameters()):
        raise ValueError(
            "The model's score head is frozen, so no reward can be learned. For a PEFT model, make its configuration "
            'with `task_type="SEQ_CLS"`; otherwise set `requires_grad` on the head\'s parameters.'
        )
