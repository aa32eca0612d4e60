r"""`AdvantageTrainer`: learns from rated responses which tokens lead to more reward than the policy's others do.

The reward of a response is what its prompt promises, and what each of its tokens adds:

    R(x, y) = V(x) + sum over t of A(y_t | x, y_<t)         A(v | ·) = Q(v) - V,   E_policy[ A(v | ·) ] = 0

Steering by A needs nothing else: V is the same for all candidates. So A is learned by least squares on whole
responses, with its mean under the policy taken away at every step:

    loss = E [ ( R - V(x) - sum over t of (A(y_t) - E_policy[A]) )² ]

which the true A makes smallest (Pan et al., "Direct Advantage Estimation", arXiv:2109.06093). V(x) is replaced by the
mean reward of the other responses to x, and A is a steering head. The sum holds for every single response, whoever
wrote it, because nothing but its tokens happens (Pan and Schölkopf, "Skill or Luck?", arXiv:2402.12874). So responses
of a guided policy teach the policy's advantages too, and all count the same.

A value model learns V at every prefix and steers by the difference of two of them. An error of V after one token is
taken back at the next, but not before tokens were chosen by it. An error of A stays in the sum, so it is unlearned.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.token_head import token_increments
from rgtg_hf.training.advantage_config import AdvantageConfig
from rgtg_hf.training.advantage_rows import AdvantageCollator, compared_rollouts
from rgtg_hf.training.hidden_state_store import HiddenStateStore
from rgtg_hf.training.hidden_states import LOOKED_AT, center_head, states_directory
from rgtg_hf.training.models import load_policy_and_tokenizer
from rgtg_hf.training.saving import SavingTrainer, base_name
from rgtg_hf.training.surplus import reward_unit
from rgtg_hf.training.trainer_arguments import check_types
from rgtg_hf.training.value_rows import each_prepared

__all__ = ["AdvantageTrainer"]

logger = logging.getLogger(__name__)
_FOREIGN = 0.02  # the share of tokens not among the candidates that leads to a warning


class AdvantageTrainer(SavingTrainer):
    """Trains a steering head on rated responses of its policy.

    The rows are those of `PrefixValueTrainer`, as `rgtg-hf rollouts` writes them, with several responses to each
    prompt. The policy stays as it is: it reads all responses once, and its hidden states are kept on disk, so that
    training takes seconds. It saves a head, which costs nothing at decoding; see
    [`steering`][rgtg_hf.decoding.steering.steering].

    Args:
        model: The policy that wrote the responses, or its name.
        args: Settings. Defaults to `AdvantageConfig` with its defaults.
        train_dataset: Rows with `prompt`, `completion` and `reward`; see
            [`rollout_ids`][rgtg_hf.training.value_rows.rollout_ids]. Also `eval_dataset`, or a dictionary of such.
        processing_class: The tokenizer. Defaults to the policy's.
        kwargs: All else that a `transformers.Trainer` takes: `callbacks`, `optimizers` and so on.

    Attributes:
        unit: The standard deviation of the rewards around those of other responses to the prompt. An increment of 1 of
            the head is as much reward. It is `reward_unit` in the saved configuration.

    Raises:
        TypeError: If an argument is of another type, or the model is not a causal LM.
        ValueError: Before any training, if a row cannot be used, no prompt has two responses, or all responses to one
            prompt have equal rewards.

    Metrics: `explained`, the share of the variance of rewards that the sum of advantages explains. An evaluation also
    gives `gain_at_1_nat`, an estimate of the reward that steering at one nat of divergence per response adds, to first
    order. Use it to compare settings on prompts that were held out.

    Example:
        ```python
        from datasets import load_dataset
        from rgtg_hf import AdvantageConfig, AdvantageTrainer

        trainer = AdvantageTrainer(
            model="HuggingFaceTB/SmolLM2-135M-Instruct",
            args=AdvantageConfig(output_dir="head"),
            train_dataset=load_dataset("json", data_files="rollouts.jsonl", split="train"),
        )
        trainer.train()
        trainer.save_model()
        ```
    """

    _own_tags = ("steering-head",)
    args: AdvantageConfig  # type: ignore[assignment]
    model: nn.Module
    processing_class: Any

    def __init__(
        self,
        model: PreTrainedModel | str,
        args: AdvantageConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        check_types(model, processing_class, train_dataset, eval_dataset)
        if args is None:
            name = base_name(model)
            args = AdvantageConfig(f"{name.split('/')[-1] or 'model'}-head")
        elif not isinstance(args, AdvantageConfig):
            raise TypeError(f"`args` is a {type(args).__name__}. AdvantageTrainer needs an AdvantageConfig.")
        if not isinstance(train_dataset, Dataset):
            raise TypeError(f"`train_dataset` is a {type(train_dataset).__name__}, but a Dataset of rows is required.")
        args = copy.copy(args)
        args.remove_unused_columns = False
        args.activation_checkpointing = args.gradient_checkpointing = False  # no layer is trained
        args.label_names = ["surpluses"]  # by which the Trainer sees that an evaluation has a loss
        policy, processing_class = load_policy_and_tokenizer(model, processing_class, args)
        vocabulary = policy.config.get_text_config().vocab_size
        if args.top_k > vocabulary:
            raise ValueError(f"`top_k` is {args.top_k}, but the policy has {vocabulary} tokens.")
        with torch.random.fork_rng():
            torch.manual_seed(args.seed)
            head = NextTokenRewardModel.from_policy(policy, rank=args.rank, context_scale=args.context_scale)
        train_rows = _compared(train_dataset, "training", processing_class, args)
        self._store = HiddenStateStore(states_directory(args), head, policy, args.top_k)
        self.unit = head.config.reward_unit = reward_unit(train_rows["surplus"])

        super().__init__(
            model=head,
            args=args,
            data_collator=AdvantageCollator(self._store, self.unit),
            train_dataset=train_rows,
            eval_dataset=_compared(eval_dataset, "evaluation", processing_class, args),
            processing_class=processing_class,
            base_model=base_name(head),
            **kwargs,
        )
        self.model.add_model_tags([*self._own_tags])  # type: ignore[operator]

    def get_train_dataloader(self) -> DataLoader:
        """Makes a loader as the Trainer does; now the policy reads those responses that it has not read yet."""
        self._read(self.train_dataset)
        self._look_at(self.train_dataset)
        return super().get_train_dataloader()

    def _located(self, dataset: Any) -> Any:
        if dataset is None or isinstance(dataset, str):
            dataset = self.eval_dataset if dataset is None else self.eval_dataset[dataset]  # type: ignore[index]
        rows = _compared(dataset, "evaluation", self.processing_class, self.args)
        if isinstance(rows, Dataset):
            self._read(rows)
        return rows

    def _read(self, rows: Any) -> None:
        responses = ((row["input_ids"], row["prompt_length"]) for row in rows)
        with self.args.main_process_first(desc="computing hidden states"):
            self._store.add(responses, self.args.per_device_eval_batch_size, progress=not self.args.disable_tqdm)

    def _look_at(self, rows: Any) -> None:
        """Tells the head what hidden states are like, and warns if the policy did not write the responses."""
        some = [(row["input_ids"], row["prompt_length"]) for row in itertools.islice(rows, LOOKED_AT)]
        center_head(self.accelerator.unwrap_model(self.model), self._store, some)
        foreign = [
            (self._store.read_candidates(ids, length)[0] != torch.tensor(ids[length:])[:, None]).all(-1).float()
            for ids, length in some
        ]
        share = float(torch.cat(foreign).mean())
        if share > _FOREIGN:
            logger.warning(
                "%.0f %% of the tokens of the responses are not among the policy's %d most likely ones. Advantages "
                "hold for responses of the policy itself: let it write them with this `top_k` (`rgtg-hf rollouts`).",
                100 * share,
                self._store.top_k,
            )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """Computes the squared error of the sum of advantages, the mean over the responses of the step."""
        mode = "train" if self.model.training else "eval"
        surpluses, weights = inputs["surpluses"], self._weights_of(inputs)
        names = ("input_ids", "attention_mask", "hidden_states", "candidates")
        outputs = model(**{name: inputs[name] for name in names})
        sums = outputs.logits[:, 0]
        errors = (sums - surpluses).square()
        loss = self._mean_loss(errors, weights, num_items_in_batch)
        with torch.no_grad():
            values = {"squared_error": errors, "squared_surplus": surpluses.square()}
            if mode == "eval":
                values |= {"covariance": sums * surpluses, "variance": self._variances(model, inputs)}
                values |= {"loss_sum": errors, "weight_sum": weights}
            self._keep_values(mode, values)
        return (loss, outputs) if return_outputs else loss

    def _weights_of(self, batch: dict[str, Any]) -> Tensor:
        return torch.ones_like(batch["surpluses"])

    def _variances(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """The variance of increments under the policy, summed over the steps of each response, shape `[batch]`."""
        head: Any = self.accelerator.unwrap_model(model)
        ids, probabilities = (part.flatten(0, 1) for part in inputs["candidates"])
        increments = token_increments(
            head.score.directions(inputs["hidden_states"]).flatten(0, 1), ids, head.token_embeddings
        )
        mean = (probabilities * increments).sum(-1, keepdim=True)
        variances = (probabilities * (increments - mean).square()).sum(-1)
        return variances.view(inputs["input_ids"].shape).sum(-1)  # probabilities are 0 after a response

    def _means(self, values: dict[str, list[float]]) -> dict[str, float]:
        sums = {name: sum(of_rows) for name, of_rows in values.items()}
        count = len(values["squared_error"])
        means = {"explained": 1 - sums["squared_error"] / sums["squared_surplus"]}
        if sums.get("variance"):
            slope = sums["covariance"] / count / math.sqrt(sums["variance"] / count)
            means["gain_at_1_nat"] = self.unit * slope * math.sqrt(2)
        return means

    def _guidance(self) -> dict[str, Any]:
        return super()._guidance() | {"top_k": self.args.top_k}


def _compared(dataset: Any, name: str, tokenizer: PreTrainedTokenizerBase, args: AdvantageConfig) -> Any:
    """The rows of a data set as the collator takes them, or of each of a dictionary of them."""

    def prepare(one: Dataset, its_name: str) -> tuple[Dataset, int]:
        return compared_rollouts(one, its_name, tokenizer, args.max_length, args.max_weight)

    why = "too long, or the only response to a prompt"
    return each_prepared(dataset, name, args, {"input_ids", "surplus"}, prepare, why)
