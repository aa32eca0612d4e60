"""`PrefixRewardTrainer`: TRL's reward trainer, with the loss of all prefixes."""

from __future__ import annotations

import copy
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import TrainOutput

from rgtg_hf.rewards.checks import check_reward_model
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.prefix_rewards import capture_position_rewards
from rgtg_hf.training.card import CITATION
from rgtg_hf.training.checks import check_datasets, check_head, check_lora, check_tokenizer, check_types
from rgtg_hf.training.config import PrefixRewardConfig
from rgtg_hf.training.curve import CURVE_FRACTIONS, save_curves, summarize
from rgtg_hf.training.data import PrefixCollator, count_rows, dropped_rows, locate_responses
from rgtg_hf.training.encoders import (
    encoder_position_rewards,
    is_encoder,
    needed_positions,
    suffix_tokens,
    tokenize_for_encoder,
)
from rgtg_hf.training.hidden_states import keep_hidden_states
from rgtg_hf.training.loss import (
    FRACTIONS,
    align_prefixes,
    prefix_losses,
    prefix_metrics,
    prefix_weights,
    row_seeds,
    whole_rewards,
)
from rgtg_hf.training.models import load_model_and_tokenizer, match_trained_dtype
from rgtg_hf.training.saving import SavingRewardTrainer, base_name

__all__ = ["PrefixRewardTrainer"]

logger = logging.getLogger(__name__)


class PrefixRewardTrainer(SavingRewardTrainer):
    """Trains a reward model on every prefix of preferred and rejected responses.

    A drop-in for `trl.RewardTrainer`: the same arguments, the same data, about the same cost per step. All prefixes'
    rewards come from one forward pass, since a causal model's score at position i has read nothing but the tokens up
    to i. What is saved is an ordinary `*ForSequenceClassification` checkpoint.

    Args:
        model: A causal sequence classifier with one label, a `PeftModel` of one, or the name of a checkpoint (a
            causal LM gets a fresh head). Also a `NextTokenRewardModel`; if its backbone is frozen, as a steering
            head's is, hidden states are computed here, once, and kept on disk.
        args: Settings. Defaults to `PrefixRewardConfig` with its defaults.
        train_dataset: Preference rows, in any form that TRL's reward trainer takes. Also `eval_dataset`.
        processing_class: The tokenizer. Defaults to the model's.
        kwargs: All other arguments of `trl.RewardTrainer`.

    Raises:
        TypeError: If an argument is of another type.
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
        "citation": CITATION,
    }
    # The loss is divided by the weight of the whole step (see get_batch_samples), so the Trainer must not divide it by
    # the number of batches in the step again.
    loss_is_scaled_for_ga: Any = True

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
        check_types(model, processing_class, train_dataset, eval_dataset)
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = PrefixRewardConfig(f"{name.split('/')[-1] or 'model'}-prefix-reward")
        elif not isinstance(args, PrefixRewardConfig):
            raise TypeError(f"`args` is a {type(args).__name__}. PrefixRewardTrainer needs a PrefixRewardConfig.")
        train_dataset = check_datasets("training", train_dataset)
        eval_dataset = check_datasets("evaluation", eval_dataset)
        check_lora(kwargs.get("peft_config"))
        args = copy.copy(args)
        base_model = base_name(model)
        model, processing_class = load_model_and_tokenizer(
            model, processing_class, args, kwargs.pop("quantization_config", None)
        )
        self._is_encoder = is_encoder(model)
        if args.prefixes is None:
            args.prefixes = "random" if self._is_encoder else "all"
        self._stream_counts: dict[str, Counter] = defaultdict(Counter)
        if isinstance(train_dataset, IterableDataset):
            train_dataset = count_rows(train_dataset, self._stream_counts["training"])
        train_given, eval_given = train_dataset, eval_dataset
        if self._is_encoder:
            train_given = _each(train_dataset, tokenize_for_encoder, processing_class)
            eval_given = _each(eval_dataset, tokenize_for_encoder, processing_class)
        else:
            check_tokenizer(processing_class, args.eos_token)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_given,
            eval_dataset=eval_given,
            processing_class=processing_class,
            base_model=base_model,
            **kwargs,
        )
        quantized = getattr(self.model, "is_loaded_in_4bit", False) or getattr(self.model, "is_loaded_in_8bit", False)
        if quantized:
            match_trained_dtype(self.model)
        # Sharded weights cannot be probed. Quantized ones can, but on a CPU bitsandbytes then packs them for reading,
        # and no gradient goes through them any more.
        if not (self._is_encoder or quantized or self.is_deepspeed_enabled or self.is_fsdp_enabled):
            check_reward_model(self.accelerator.unwrap_model(self.model))
        check_head(self.model)
        # TRL has tokenized the rows and dropped those that are too long. Where responses begin and end is added here.
        self.train_dataset = self._locate_responses(self.train_dataset, "training", before=train_dataset)
        if isinstance(eval_dataset, dict):
            self.eval_dataset = {
                key: self._locate_responses(dataset, key, before=eval_dataset[key])
                for key, dataset in self.eval_dataset.items()
            }
        elif eval_dataset is not None:
            self.eval_dataset = self._locate_responses(self.eval_dataset, "evaluation", before=eval_dataset)
        if data_collator is None:
            multiple: Any = self.args.pad_to_multiple_of
            self.data_collator = PrefixCollator(self.processing_class.pad_token_id, multiple)
            if isinstance(self.model, NextTokenRewardModel) and self.model.is_frozen:
                datasets = [self.train_dataset]
                datasets += self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
                self.data_collator = keep_hidden_states(self.model, datasets, self.args, self.data_collator)
        self._suffix = suffix_tokens(self.processing_class) if self._is_encoder else []

    def _locate_responses(self, dataset: Any, name: str, before: Any = None) -> Any:
        """Prepares one data set, and says in one line which rows were dropped and why."""
        if not isinstance(dataset, Dataset):
            return locate_responses(dataset, self.processing_class, self._stream_counts[name])
        counts = Counter(read=len(dataset if before is None else before))
        if len(dataset):
            with self.args.main_process_first(desc="locating responses"):
                dataset = locate_responses(dataset, self.processing_class, counts, self.args.dataset_num_proc)
        dropped = dropped_rows(counts)
        if len(dataset) == 0:
            raise ValueError(
                f"No row of the {name} data set is left: {_in_words(dropped)}. Rows are dropped if `chosen` equals "
                "`rejected`, if one of them is empty, or if one is longer than `max_length` "
                f"({self.args.max_length}) tokens."
            )
        self._report_dropped(name, dropped)
        return dataset

    def _report_dropped(self, name: str, dropped: Counter) -> None:
        if dropped and self.is_world_process_zero():
            logger.warning("Dropped %d rows of the %s data set: %s.", dropped.total(), name, _in_words(dropped))

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in the Trainer. Which rows of a stream were dropped is known, and said, only afterwards."""
        for counts in self._stream_counts.values():
            counts.clear()  # of the rows that were read only to see what they are like
        output = super().train(*args, **kwargs)
        for name, counts in self._stream_counts.items():
            self._report_dropped(name, dropped_rows(counts))
        return output

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns: Any = ["chosen_ids", "rejected_ids", "prompt_length", "margin"]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """As in TRL, for prepared sets and for new ones in any of its forms."""
        eval_dataset = check_datasets("evaluation", eval_dataset)
        if self._is_encoder:
            eval_dataset = _each(eval_dataset, tokenize_for_encoder, self.processing_class)
        self._metric_key_prefix = metric_key_prefix
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if self.is_world_process_zero():
            save_curves(self.curves, str(self.args.output_dir))
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in TRL, but each of several evaluation sets has names of its own: `eval_a_accuracy`, `eval_b_accuracy`.

        The loss of an evaluation is the mean over all prefixes of the set, however they fell into batches.
        """
        metrics = self._metrics["eval"]
        if not self.model.training and metrics:
            prefix = self._metric_key_prefix
            logs[f"{prefix}_loss"] = sum(metrics.pop("loss_sum")) / sum(metrics.pop("weight_sum"))
            self.curves[prefix] = summarize({at: metrics.pop(f"wins_at_{at}") for at in CURVE_FRACTIONS})
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

    def _prefix_weights(self, batch: dict[str, Tensor], prefixes: Any) -> Tensor:
        seeds: list[int] = []
        if prefixes == "random":
            seeds = row_seeds(batch["input_ids"], batch["attention_mask"], self.args.seed, self.state.global_step)
        return prefix_weights(
            batch["response_length"],
            batch["input_ids"].shape[1],
            after_end=self.args.after_end,
            prefixes=prefixes,
            prefix_stride=self.args.prefix_stride,
            prefixes_per_pair=self.args.prefixes_per_pair,
            position_weights=self.args.position_weights,
            shared_length=batch["shared_length"] if self.args.from_first_difference else None,
            row_seeds=seeds,
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
        lengths = inputs["response_length"]
        weights = inputs.get("prefix_weights")
        if weights is None:
            # Evaluation looks at all prefixes: its figures should not depend on a draw.
            drawn = self.args.prefixes == "random" and not self._is_encoder
            weights = self._prefix_weights(inputs, "all" if drawn else self.args.prefixes)
        total = weights.sum() if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes

        if self._is_encoder:
            fractions = () if mode == "train" else (*FRACTIONS, *CURVE_FRACTIONS)
            needed = needed_positions(weights, lengths, fractions)
            rewards, outputs = encoder_position_rewards(
                model, inputs, needed, self._suffix, self.processing_class.pad_token_id
            )
        else:
            known = {"hidden_states": inputs["hidden_states"]} if "hidden_states" in inputs else {}
            with capture_position_rewards(model) as captured:
                outputs = model(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False, **known
                )
            rewards = captured[0]
        chosen, rejected = align_prefixes(rewards, inputs["prompt_length"], lengths)
        losses = prefix_losses(
            chosen,
            rejected,
            margin=inputs.get("margin"),
            center_rewards_coefficient=self.args.center_rewards_coefficient,
        )
        # The losses and gradients of processes are averaged, not added: see `total`.
        loss = (weights * losses).sum() / total
        with torch.no_grad():
            counted = weights > 0 if self._is_encoder else None
            fractions = () if self._is_encoder and mode == "train" else FRACTIONS
            values = prefix_metrics(chosen, rejected, lengths, fractions=fractions, counted=counted)
            if fractions:
                values |= whole_rewards(chosen, rejected, lengths)
            if mode == "eval":
                curve = prefix_metrics(chosen, rejected, lengths, fractions=CURVE_FRACTIONS)
                values |= {f"wins_at_{at}": curve[f"accuracy_at_{round(100 * at)}"] for at in CURVE_FRACTIONS}
                values |= {"loss_sum": (weights * losses).sum(1), "weight_sum": weights.sum(1)}
            self._record(mode, values, inputs["attention_mask"])
        return (loss, outputs) if return_outputs else loss

    def _record(self, mode: str, values: dict[str, Tensor], attention_mask: Tensor) -> None:
        """Adds the batch's metrics, pair by pair, so that averages do not depend on how pairs fell into batches."""
        table = self.accelerator.gather_for_metrics(torch.stack(list(values.values()), dim=1))
        columns = dict(zip(values, table.T.tolist(), strict=True))
        metrics = self._metrics[mode]
        if "chosen_reward" in columns:
            whole = columns.pop("chosen_reward") + columns.pop("rejected_reward")
            metrics["min_reward"].append(min(whole))
            metrics["mean_reward"].extend(whole)
            metrics["max_reward"].append(max(whole))
        for name, column in columns.items():
            metrics[name].extend(column)
        if mode == "train":
            self._total_train_tokens += self.accelerator.gather(attention_mask.sum()).sum().item()
        metrics["num_tokens"] = [self._total_train_tokens]


def _each(dataset: Any, function: Callable, *args: Any) -> Any:
    """Applies a function to a data set, or to each of a dictionary of them."""
    if isinstance(dataset, dict):
        return {key: function(value, *args) for key, value in dataset.items()}
    return dataset if dataset is None or isinstance(dataset, str) else function(dataset, *args)


def _in_words(counts: Counter) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
