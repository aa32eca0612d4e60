"""The models that the benchmarks share: the policy, and models trained on pairs."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from transformers.utils import logging

from rgtg_hf import (
    AdvantageConfig,
    AdvantageTrainer,
    NextTokenRewardModel,
    PrefixRewardConfig,
    PrefixRewardTrainer,
    PrefixValueConfig,
    PrefixValueTrainer,
)
from rgtg_hf.cli.demo.demo_policy import demo_policy_path
from rgtg_hf.training.models import load_for_training
from rgtg_hf.training.resume import last_checkpoint

KINDS = ("prefix", "full", "head", "dpo")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # where comparisons of methods train and sample
# Nothing is saved, logged or reported while a benchmark trains.
QUIET: dict[str, Any] = {
    "bf16": False,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
}
COMMON: dict[str, Any] = QUIET | {
    "use_cpu": DEVICE == "cpu",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "max_length": None,
    "activation_checkpointing": False,
}
CHECKPOINTS: dict[str, Any] = {"save_strategy": "steps", "save_steps": 0.1, "save_total_limit": 1}
REWARD: dict[str, Any] = {"learning_rate": 1e-4}
VALUE: dict[str, Any] = {"learning_rate": 1e-4, "num_train_epochs": 2, "per_device_train_batch_size": 16}
HEAD: dict[str, Any] = {
    "learning_rate": 3e-3,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 16,
    "weight_decay": 0.1,
}
# The paper uses LoRA of rank 16. Learning rate, beta and bfloat16 are what TRL suggests for LoRA.
DPO: dict[str, Any] = {"learning_rate": 1e-4, "beta": 0.1, "bf16": True}
# GenARM's own: the loss of DPO on log-probabilities alone, which is DPO with a reference that finds all texts equally
# likely.
ARM: dict[str, Any] = DPO | {"beta": 0.05, "precompute_ref_log_probs": True}
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
TRAINING = {"common": COMMON, "reward models": REWARD, "value models": VALUE, "head": HEAD, "dpo": DPO, "lora": LORA}


def load_policy(device: str = "cpu") -> tuple[Any, Any]:
    """The demo's policy and its tokenizer."""
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    path = demo_policy_path()
    policy = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval().to(device)
    return policy, AutoTokenizer.from_pretrained(path)


def train(
    kind: str,
    folder: Path,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    *,
    seed: int,
    num_layers: int = 10,
    max_steps: int = -1,
    head: dict[str, Any] | None = None,
    **other: Any,
) -> float:
    """Trains one model into `folder`, which appears when it is complete, and returns the seconds of training.

    A training that was stopped goes on at its last checkpoint if its settings are the same. The seconds are then those
    of the rest.

    Args:
        kind: `prefix` trains a reward model on every prefix of a response, `full` on whole responses (TRL's trainer),
            `head` trains a steering head on pairs and `advantage` one on rated responses, `value` a value model, `dpo`
            fine-tunes the policy, `arm` trains GenARM's autoregressive reward model.
        folder: The folder of the checkpoint.
        tokenizer: The policy's tokenizer.
        rows: Pairs of `training_pairs`; for `value` and `advantage`, rated responses.
        seed: Seed of the new weights and of the order of pairs.
        num_layers: Layers of the policy that a reward model starts from.
        max_steps: The largest number of steps; -1 for the whole epoch.
        head: Settings of a steering head.
        **other: Settings of the trainer that replace those above.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    common = {**COMMON, **CHECKPOINTS, "seed": seed, "max_steps": max_steps}
    # Without paths, so that the folder can move; with the settings of all kinds, which may change between two runs.
    _make_ready(partial, [kind, num_layers, head, len(rows), TRAINING, ARM, common | other])
    common["output_dir"] = str(partial)
    if kind in ("dpo", "arm"):
        trainer = _dpo_trainer(common | (DPO if kind == "dpo" else ARM) | other, tokenizer, rows)
    else:
        trainer = _reward_trainer(kind, folder, common, other, tokenizer, rows, num_layers, head or {})
    start = time.perf_counter()
    with quiet_trainer():
        trainer.train(resume_from_checkpoint=last_checkpoint(partial))
    seconds = time.perf_counter() - start
    shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(partial)
    os.replace(partial, folder)
    return seconds


def _make_ready(folder: Path, settings: list[Any]) -> None:
    """Keeps the checkpoints in a folder only if they are of a training with these settings."""
    written = json.dumps(settings)
    file = folder / "settings.json"
    if not file.is_file() or file.read_text(encoding="utf-8") != written:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        file.write_text(written, encoding="utf-8")


@contextlib.contextmanager
def quiet_trainer():
    """Hides the final metrics that a trainer prints, which would drown the table of a sweep."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def ids_dataset(rows: list[dict[str, Any]], *columns: str) -> datasets.Dataset:
    """A dataset of some columns of the pairs."""
    return datasets.Dataset.from_list([{column: row[column] for column in columns} for row in rows])


def _reward_trainer(
    kind: str,
    folder: Path,
    common: dict[str, Any],
    other: dict[str, Any],
    tokenizer: Any,
    rows: list[dict[str, Any]],
    num_layers: int,
    head: dict[str, Any],
) -> Any:
    from trl import RewardConfig, RewardTrainer

    # The pad token must not be the end token: TRL's trainer reads the last token that is not a pad token.
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = "<|endoftext|>"
    if kind == "value":
        rated = ids_dataset(rows, "prompt_ids", "completion_ids", "reward")
        values = PrefixValueConfig(**common | VALUE | other, num_layers=num_layers)
        return PrefixValueTrainer(str(demo_policy_path()), values, train_dataset=rated, processing_class=tokenizer)
    if kind == "advantage":
        policy = AutoModelForCausalLM.from_pretrained(demo_policy_path(), dtype="float32").to(DEVICE)
        rated = ids_dataset(rows, "prompt_ids", "completion_ids", "reward", "log_ratios")
        states = {"hidden_states_dir": str(folder.with_name("steps"))}
        advantages = AdvantageConfig(**common | HEAD | states | other)
        return AdvantageTrainer(policy, advantages, train_dataset=rated, processing_class=tokenizer)
    if kind == "head":
        policy = AutoModelForCausalLM.from_pretrained(demo_policy_path(), dtype="float32").to(DEVICE)
        set_seed(common["seed"])
        model: Any = NextTokenRewardModel.from_policy(policy, **head)
        settings = common | HEAD | {"hidden_states_dir": str(folder.with_name("hidden_states"))}
    else:
        model = load_for_training(demo_policy_path(), num_layers, seed=common["seed"])
        settings = common | REWARD
    if kind == "full":
        dataset = ids_dataset(rows, "chosen_ids", "rejected_ids")
        config: Any = RewardConfig(**settings | other)
        return RewardTrainer(model, config, train_dataset=dataset, processing_class=tokenizer)
    dataset = ids_dataset(rows, "chosen_ids", "rejected_ids", "prompt_length")
    config = PrefixRewardConfig(**settings | other)
    return PrefixRewardTrainer(model, config, train_dataset=dataset, processing_class=tokenizer)


def _dpo_trainer(settings: dict[str, Any], tokenizer: Any, rows: list[dict[str, Any]]) -> Any:
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(demo_policy_path(), dtype="float32"),
        args=DPOConfig(**settings),
        train_dataset=datasets.Dataset.from_list([{"prompt": "Hi", "chosen": " there", "rejected": " you"}]),
        processing_class=tokenizer,
        peft_config=LoraConfig(**LORA),
    )
    # TRL adds the end token to every response, also to those that were cut off while they were sampled. DPO gets the
    # ids of the reward models instead, which have an end only where one was sampled.
    reference = {"ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0}
    trainer.train_dataset = datasets.Dataset.from_list(
        [
            {
                "prompt_ids": row["chosen_ids"][: row["prompt_length"]],
                "chosen_ids": row["chosen_ids"][row["prompt_length"] :],
                "rejected_ids": row["rejected_ids"][row["prompt_length"] :],
            }
            | (reference if settings.get("precompute_ref_log_probs") else {})
            for row in rows
        ]
    )
    return trainer
