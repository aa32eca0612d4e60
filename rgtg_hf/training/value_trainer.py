"""`PrefixValueTrainer`: learns the distribution of the return at every prefix from rated responses."""

from __future__ import annotations

import copy
import statistics
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rgtg_hf.rewards.causal_classifier import check_reward_model
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.prefix_rewards import capture_scores
from rgtg_hf.rewards.value_calibration import calibration, calibration_sums, trusted_value_beta
from rgtg_hf.rewards.value_model import as_reward_model, bins_of, is_value_model
from rgtg_hf.training.curve import CALIBRATION_FILE, save_calibrations
from rgtg_hf.training.models import load_model_and_tokenizer, match_trained_dtype
from rgtg_hf.training.saving import TAGS, SavingTrainer, base_name
from rgtg_hf.training.surplus import reward_unit, rollout_surpluses
from rgtg_hf.training.trainer_arguments import check_head, check_lora, check_tokenizer, check_types
from rgtg_hf.training.value_config import PrefixValueConfig
from rgtg_hf.training.value_loss import return_targets, value_losses, value_metrics
from rgtg_hf.training.value_rows import ValueCollator, each_prepared, located_rollouts, rewards_of

__all__ = ["PrefixValueTrainer"]

_CALIBRATION = "calibration "


class PrefixValueTrainer(SavingTrainer):
    """Trains a value model: at every prefix of a response, the distribution of the reward that it will get.

    The rows are responses of the policy itself with their rewards, as `rgtg-hf rollouts` writes them. All prefixes of
    a response are read in one forward pass. It saves an ordinary `*ForSequenceClassification` checkpoint, whose labels
    are the bins of a histogram; guidance reads it as a reward model (`value_beta`).

    Args:
        model: The name of a checkpoint, whose histogram gets a fresh head; or a causal sequence classifier with a
            `value_range` in its configuration, or a `PeftModel` of one.
        args: Settings. Defaults to `PrefixValueConfig` with its defaults.
        train_dataset: Rows with `prompt`, `completion` and `reward`; see
            [`rollout_ids`][rgtg_hf.training.value_rows.rollout_ids]. Also `eval_dataset`, or a dictionary of such.
        processing_class: The tokenizer. Defaults to the model's.
        quantization_config: How to quantize a model given by name.
        peft_config: An adapter to train (LoRA).
        kwargs: All else that a `transformers.Trainer` takes: `callbacks`, `optimizers` and so on.

    Attributes:
        unit: The standard deviation of the rewards around those of other responses to the prompt; of all rewards, if
            those of a prompt never differ. The `beta` that is saved beside the model is 3 nats for as much.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: Before any training, if a row cannot be used, all rewards are equal, a training reward is outside
            of the range, or the model is not a causal sequence classifier with the bins of a histogram.

    Metrics: `squared_error_at_0` (after the prompt), `squared_error_at_25` and so on: of the histogram's mean, at 0,
    25, 50, 75 and 100 percent of each response. An evaluation also writes `calibration.json` and a picture: expected
    against found returns, and how far the soft values are off at several `value_beta`. The largest at which they are
    right to half a nat, two standard errors included, is `trusted_value_beta` in the saved configuration. Guidance
    with a larger one warns.

    Example:
        ```python
        from datasets import load_dataset
        from rgtg_hf import PrefixValueConfig, PrefixValueTrainer

        trainer = PrefixValueTrainer(
            model="HuggingFaceTB/SmolLM2-135M-Instruct",
            args=PrefixValueConfig(output_dir="value-model", num_layers=10),
            train_dataset=load_dataset("json", data_files="rollouts.jsonl", split="train"),
        )
        trainer.train()
        trainer.save_model()
        ```
    """

    _own_tags = ("prefix-value-model",)
    _save_curves = staticmethod(save_calibrations)
    _curves_file = CALIBRATION_FILE
    args: PrefixValueConfig  # type: ignore[assignment]
    model: nn.Module
    processing_class: Any

    def __init__(
        self,
        model: Any,
        args: PrefixValueConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        quantization_config: Any = None,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        check_types(model, processing_class, train_dataset, eval_dataset)
        if args is None:
            name = model if isinstance(model, str) else model.config.name_or_path
            args = PrefixValueConfig(f"{name.split('/')[-1] or 'model'}-prefix-value")
        elif not isinstance(args, PrefixValueConfig):
            raise TypeError(f"`args` is a {type(args).__name__}. PrefixValueTrainer needs a PrefixValueConfig.")
        if not isinstance(train_dataset, Dataset):
            raise TypeError(f"`train_dataset` is a {type(train_dataset).__name__}, but a Dataset of rows is required.")
        args = copy.copy(args)
        args.remove_unused_columns = False
        args.label_names = ["rewards"]  # by which the Trainer sees that an evaluation has a loss
        base_model = base_name(model)
        low, high = _range(args, train_dataset)
        labels = {"num_labels": args.num_bins, "value_range": [low, high]}
        model, processing_class = load_model_and_tokenizer(model, processing_class, args, quantization_config, labels)
        if isinstance(model, NextTokenRewardModel) or not is_value_model(model):
            raise ValueError(
                f"`model` is a {type(model).__name__} without `value_range` in its configuration. Give the name of a "
                "checkpoint, or a sequence classifier whose labels are the bins of a histogram."
            )
        check_lora(peft_config, model)
        check_tokenizer(processing_class, args.eos_token)
        if args.eos_token is not None:
            processing_class.eos_token = args.eos_token
        if processing_class.pad_token is None:
            processing_class.pad_token = processing_class.eos_token
        if model.config.get_text_config().pad_token_id is None:
            model.config.get_text_config().pad_token_id = processing_class.pad_token_id  # type: ignore[union-attr]
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)  # type: ignore[assignment]
        if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
            match_trained_dtype(model)
        self._bins = bins_of(model.config)

        super().__init__(
            model=model,
            args=args,
            data_collator=ValueCollator(processing_class.pad_token_id, args.max_weight),
            train_dataset=self._locate(train_dataset, "training", processing_class, args, may_be_outside=False),
            eval_dataset=self._locate(eval_dataset, "evaluation", processing_class, args),
            processing_class=processing_class,
            base_model=base_model,
            **kwargs,
        )
        self.unit = self._unit(self.train_dataset)
        self.model.add_model_tags([*TAGS, *self._own_tags])  # type: ignore[operator]
        if not (self.is_deepspeed_enabled or self.is_fsdp_enabled or getattr(self.model, "quantization_method", None)):
            check_reward_model(as_reward_model(self.accelerator.unwrap_model(self.model)))
        check_head(self.model)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Computes the cross-entropy of a batch of rated responses, the mean over all prefixes of the step."""
        mode = "train" if self.model.training else "eval"
        with capture_scores(model) as captured:
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        logits, is_prefix, weights = captured[0], inputs["is_prefix"], inputs["weights"]
        bins, rewards = self._bins.to(logits.device), inputs["rewards"].float()
        losses = value_losses(logits, return_targets(rewards, bins, self.args.targets)).masked_fill(~is_prefix, 0.0)
        loss = self._mean_loss(losses, weights, num_items_in_batch)
        with torch.no_grad():
            values = value_metrics(logits, rewards, is_prefix, bins)
            if mode == "eval":
                sums = calibration_sums(logits, rewards, weights, bins)
                values |= {f"{_CALIBRATION}{name}": own for name, own in sums.items()}
                values |= {"loss_sum": (weights * losses).sum(1), "weight_sum": weights.sum(1)}
            self._keep_values(mode, values)
        return (loss, outputs) if return_outputs else loss

    def _use_curves(self) -> None:
        """Saves the curves, and keeps up to which `value_beta` the model was right."""
        super()._use_curves()
        self.model.config.trusted_value_beta = min(map(trusted_value_beta, self.curves.values()))  # type: ignore[union-attr]

    def _located(self, dataset: Any) -> Any:
        return self._locate(dataset, "evaluation", self.processing_class, self.args)

    def _locate(
        self, dataset: Any, name: str, tokenizer: Any, args: PrefixValueConfig, may_be_outside: bool = True
    ) -> Any:
        """The token ids of a data set, or of each of a dictionary of them."""

        def prepare(one: Dataset, its_name: str) -> tuple[Dataset, int]:
            return located_rollouts(one, its_name, tokenizer, args.max_length, self._ends, may_be_outside)

        return each_prepared(dataset, name, args, {"input_ids", "prompt_length", "log_ratios"}, prepare, "too long")

    def _unit(self, rows: Any) -> float:
        """The standard deviation of rewards within prompts, or of all where those of a prompt never differ."""
        within = reward_unit(rollout_surpluses(rows, self.args.max_weight))
        low, high = self._ends
        return within or statistics.pstdev(rows["reward"]) or high - low

    @property
    def _ends(self) -> tuple[float, float]:
        """The returns of the first and the last bin."""
        return float(self._bins[0]), float(self._bins[-1])

    def _curve(self, values: dict[str, list[float]]) -> dict[str, Any]:
        sums = {name: values.pop(name) for name in list(values) if name.startswith(_CALIBRATION)}
        return calibration({name.removeprefix(_CALIBRATION): own for name, own in sums.items()}, self._ends)

    def _guidance(self) -> dict[str, Any]:
        guidance = super()._guidance()
        return guidance | {"beta": float(f"{guidance['beta'] / self.unit:.2g}"), "value_beta": 0.0}


def _range(args: PrefixValueConfig, dataset: Dataset) -> tuple[float, float]:
    """The returns of the first and the last bin."""
    if args.value_range is not None:
        low, high = args.value_range
        return low, high
    if "reward" not in dataset.column_names:
        raise ValueError(f"The training data set has the columns {dataset.column_names}, but no `reward`.")
    rewards = rewards_of(dataset, "training")
    low, high = min(rewards), max(rewards)
    if low == high:
        raise ValueError(
            f"All {len(rewards)} rewards of the training data set are equal, so there is nothing to learn from them."
        )
    return low, high
