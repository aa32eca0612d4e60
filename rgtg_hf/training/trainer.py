"""`PrefixRewardTrainer`: TRL's reward trainer, with the loss of all prefixes."""

from __future__ import annotations

import copy
import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import PredictionOutput, TrainOutput
from trl import RewardConfig, RewardTrainer

from rgtg_hf.rewards.causal_classifier import check_reward_model
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.pair_accuracy import CURVE_FRACTIONS, accuracy_curve
from rgtg_hf.rewards.prefix_rewards import capture_scores
from rgtg_hf.training.curve import ACCURACY_FILE, save_curves
from rgtg_hf.training.data import (
    PrefixCollator,
    check_collator,
    count_rows,
    dropped_rows,
    is_located,
    locate_responses,
)
from rgtg_hf.training.encoders import (
    encoder_position_rewards,
    needed_positions,
    scores_whole_texts,
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
from rgtg_hf.training.prefix_reward_config import PrefixRewardConfig
from rgtg_hf.training.saving import TAGS, SavingTrainer, base_name
from rgtg_hf.training.trainer_arguments import check_datasets, check_head, check_lora, check_tokenizer, check_types

__all__ = ["PrefixRewardTrainer"]

logger = logging.getLogger(__name__)
WHOLE_REWARDS = ("chosen_reward", "rejected_reward")


class PrefixRewardTrainer(SavingTrainer, RewardTrainer):
    """Trains a reward model on every prefix of preferred and rejected responses.

    A drop-in for `trl.RewardTrainer`: the same arguments, the same data, about the same cost per step. All prefixes'
    rewards come from one forward pass, since a causal model's score at position i has read nothing but the tokens up
    to i. It saves an ordinary `*ForSequenceClassification` checkpoint.

    Args:
        model: A causal sequence classifier with one label, a `PeftModel` of one, or the name of a checkpoint (a
            causal LM gets a fresh head). Also a `NextTokenRewardModel`; if its backbone is frozen, as that of a
            steering head is, its hidden states are computed once, before training, and kept on disk.
        args: Settings. Defaults to `PrefixRewardConfig` with its defaults. A `trl.RewardConfig` is taken as well, with
            the default choice of prefixes.
        data_collator: Makes batches of pairs, as TRL's `DataCollatorForPreference` does, which is the default.
        train_dataset: Preference rows, in any form that TRL's reward trainer takes. Also `eval_dataset`.
        processing_class: The tokenizer. Defaults to the model's.
        peft_config: An adapter to train (LoRA). All other arguments are those of `trl.RewardTrainer`.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: Before any training, if a data set is empty, has a row with a missing or unusable value, or has
            only rows that are dropped; if the model does not have exactly one label, or has no score at every
            position; if a fresh score head would not be trained and saved by LoRA; if the collator changes tokens.

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

    _save_curves = staticmethod(save_curves)
    _curves_file = ACCURACY_FILE
    args: PrefixRewardConfig
    model: nn.Module
    processing_class: Any
    eval_dataset: Any

    def __init__(
        self,
        model: Any,
        args: RewardConfig | None = None,
        data_collator: Any | None = None,
        train_dataset: Any | None = None,
        eval_dataset: Any | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        compute_metrics: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
        optimizer_cls_and_kwargs: tuple | None = None,
        preprocess_logits_for_metrics: Callable | None = None,
        quantization_config: Any | None = None,
        peft_config: Any | None = None,
    ) -> None:
        check_types(model, processing_class, train_dataset, eval_dataset)
        if args is None:
            name = model if isinstance(model, str) else model.config.name_or_path
            args = PrefixRewardConfig(f"{name.split('/')[-1] or 'model'}-prefix-reward")
        elif not isinstance(args, RewardConfig):
            raise TypeError(f"`args` is a {type(args).__name__}. PrefixRewardTrainer needs a PrefixRewardConfig.")
        elif not isinstance(args, PrefixRewardConfig):
            args = PrefixRewardConfig.from_reward_config(args)
        args = copy.copy(args)
        base_model = base_name(model)
        model, processing_class = load_model_and_tokenizer(model, processing_class, args, quantization_config)
        if isinstance(model, NextTokenRewardModel) and model.config.policy is not None:
            # A steering head has no layers to checkpoint, and transformers refuses to look for some.
            args.activation_checkpointing = args.gradient_checkpointing = False
        check_lora(peft_config, model)
        self._vocabulary_size = getattr(model.config.get_text_config(), "vocab_size", None)
        train_dataset = check_datasets("training", train_dataset, self._vocabulary_size)
        eval_dataset = check_datasets("evaluation", eval_dataset, self._vocabulary_size)
        self._is_encoder = scores_whole_texts(model)
        if args.prefixes is None:
            args.prefixes = "random" if self._is_encoder else "all"
        # Unused columns are dropped here, since the Trainer does not know which ones the loss uses.
        self._keep_columns = not args.remove_unused_columns
        args.remove_unused_columns = False
        self._tokens_read = 0
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
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            peft_config=peft_config,
            base_model=base_model,
        )
        self.model.add_model_tags(TAGS)  # type: ignore[operator]
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
        self.data_collator: Any = PrefixCollator(self.data_collator)
        if data_collator is not None:
            rows: Any = self.train_dataset
            check_collator(self.data_collator, list(itertools.islice(rows, 2)))
        if isinstance(self.model, NextTokenRewardModel) and self.model.is_frozen:
            datasets = [self.train_dataset]
            datasets += self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
            self.data_collator = keep_hidden_states(self.model, datasets, self.args, self.data_collator)
        self._suffix = suffix_tokens(self.processing_class) if self._is_encoder else []

    def _locate_responses(self, dataset: Any, name: str, before: Any = None) -> Any:
        """Prepares one data set, and logs in one line how many rows were dropped and why."""
        if not isinstance(dataset, Dataset):
            return locate_responses(dataset, self.processing_class, self._stream_counts[name])
        counts = Counter(read=len(dataset if before is None else before))
        if len(dataset):
            with self.args.main_process_first(desc="locating responses"):
                dataset = locate_responses(
                    dataset,
                    self.processing_class,
                    counts,
                    self.args.dataset_num_proc,
                    keep_columns=self._keep_columns,
                )
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
        """Trains as the Trainer does. Which rows of a stream were dropped is known, and logged, only afterwards."""
        self._values["train"].clear()
        self._tokens_read = 0
        self._stream_counts["training"].clear()  # some rows were read to look at them, before training
        output = super().train(*args, **kwargs)
        self._report_stream("training")
        return output

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluates as TRL does, prepared sets and new ones in any of its forms; saves the accuracy curves."""
        for name in self._stream_counts.keys() - {"training"}:
            self._stream_counts[name].clear()
        metrics = super().evaluate(self._checked(eval_dataset), ignore_keys, metric_key_prefix)
        for name in self._stream_counts.keys() - {"training"}:
            self._report_stream(name)
        return metrics

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Predicts as the Trainer does, also for a data set in any of the forms that training takes."""
        return super().predict(self._checked(test_dataset), *args, **kwargs)

    def _curve(self, values: dict[str, list[float]]) -> dict[str, Any]:
        return accuracy_curve({at: values.pop(f"wins_at_{at}") for at in CURVE_FRACTIONS})

    def _means(self, values: dict[str, list[float]]) -> dict[str, float]:
        """Averages each metric over pairs. Rewards of whole responses give their mean, minimum and maximum."""
        whole = [reward for name in WHOLE_REWARDS for reward in values.get(name, [])]
        means = super()._means({name: own for name, own in values.items() if name not in WHOLE_REWARDS})
        if whole:
            means |= {"min_reward": min(whole), "mean_reward": sum(whole) / len(whole), "max_reward": max(whole)}
        return means | {"num_tokens": self._tokens_read}

    def _checked(self, dataset: Any) -> Any:
        dataset = check_datasets("evaluation", dataset, self._vocabulary_size)
        return _each(dataset, tokenize_for_encoder, self.processing_class) if self._is_encoder else dataset

    def _located(self, dataset: Any) -> Any:
        if dataset is None or isinstance(dataset, str) or is_located(dataset):
            return dataset
        return self._locate_responses(dataset, "evaluation")

    def _report_stream(self, name: str) -> None:
        self._report_dropped(name, dropped_rows(self._stream_counts[name]))

    def _weights_of(self, batch: dict[str, Any]) -> Tensor | None:
        """Weighs the prefixes of a batch, once for its step: the loss takes what is drawn here."""
        if "prompt_length" not in batch:
            return None
        batch["prefix_weights"] = self._prefix_weights(batch, self.args.prefixes)
        return batch["prefix_weights"]

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
        """Computes the prefix Bradley-Terry loss of a batch of pairs, see [`rgtg_hf.training.loss`]."""
        mode = "train" if self.model.training else "eval"
        lengths = inputs["response_length"]
        weights = inputs.get("prefix_weights")
        if weights is None:
            # Evaluation reads all prefixes, so that its figures do not depend on a draw.
            drawn = self.args.prefixes == "random" and not self._is_encoder
            weights = self._prefix_weights(inputs, "all" if drawn else self.args.prefixes)

        if self._is_encoder:
            fractions = () if mode == "train" else (*FRACTIONS, *CURVE_FRACTIONS)
            needed = needed_positions(weights, lengths, fractions)
            rewards, outputs = encoder_position_rewards(
                model, inputs, needed, self._suffix, self.processing_class.pad_token_id
            )
        else:
            known = {"hidden_states": inputs["hidden_states"]} if "hidden_states" in inputs else {}
            with capture_scores(model) as captured:
                outputs = model(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False, **known
                )
            rewards = captured[0][..., 0]
        chosen, rejected = align_prefixes(rewards, inputs["prompt_length"], lengths)
        losses = prefix_losses(
            chosen,
            rejected,
            margin=inputs.get("margin"),
            center_rewards_coefficient=self.args.center_rewards_coefficient,
        )
        loss = self._mean_loss(losses, weights, num_items_in_batch)
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
            self._keep_values(mode, values)
            if mode == "train":
                self._tokens_read += self.accelerator.gather(inputs["attention_mask"].sum()).sum().item()
        return (loss, outputs) if return_outputs else loss


def _each(dataset: Any, function: Callable, *args: Any) -> Any:
    """Applies a function to a data set, or to each of a dictionary of them."""
    if isinstance(dataset, dict):
        return {key: function(value, *args) for key, value in dataset.items()}
    return dataset if dataset is None or isinstance(dataset, str) else function(dataset, *args)


def _in_words(counts: Counter) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
