"""The models of paper_table.py: reward models on whole responses and on prefixes, and a policy fine-tuned by DPO."""

from __future__ import annotations

import copy
import os
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
from cpu_training import ON_CPU
from heads_common import HEAD
from peft import LoraConfig
from transformers import AutoModelForCausalLM, set_seed
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

from rgtg_hf import NextTokenRewardModel, PrefixRewardConfig, PrefixRewardTrainer
from rgtg_hf.cli.demo_policy import demo_policy_path
from rgtg_hf.training.models import load_reward_model

__all__ = ["COMMON", "DPO", "KINDS", "LORA", "REWARD", "train"]

KINDS = ("prefix", "full", "head", "dpo")

COMMON: dict[str, Any] = ON_CPU | {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "max_length": None,
    "activation_checkpointing": False,
}
REWARD: dict[str, Any] = {"learning_rate": 1e-4}
# LoRA of rank 16 is the paper's; learning rate, beta and bfloat16 are TRL's customary ones for LoRA.
DPO: dict[str, Any] = {"learning_rate": 1e-4, "beta": 0.1, "bf16": True}
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


def train(
    kind: str,
    folder: Path,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    *,
    seed: int,
    num_layers: int,
    max_steps: int,
    **other: Any,
) -> float:
    """Trains one model into `folder`, which appears when it is complete; returns the seconds of training.

    Args:
        kind: `prefix` for every prefix of a response, `full` for whole ones (TRL's trainer), `head` for a steering
            head, `dpo` for the policy.
        folder: Where the checkpoint goes.
        tokenizer: The policy's.
        rows: Pairs of `training_pairs`.
        seed: Of the head and of the order of pairs.
        num_layers: Layers of the policy that a reward model starts from.
        max_steps: Steps at most; -1 for the whole epoch.
        **other: Settings of the trainer in place of those above.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    common = {**COMMON, "output_dir": str(partial), "seed": seed, "max_steps": max_steps}
    if kind == "dpo":
        trainer = _dpo_trainer(DPOConfig(**common | DPO | other), tokenizer, rows)
    else:
        # The pad token must not be the end token: TRL's trainer reads the last token that is no pad token.
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = "<|endoftext|>"
        columns = ["chosen_ids", "rejected_ids"] + (["prompt_length"] if kind != "full" else [])
        dataset = datasets.Dataset.from_list([{column: row[column] for column in columns} for row in rows])
        if kind == "head":
            policy = AutoModelForCausalLM.from_pretrained(demo_policy_path(), dtype="float32")
            set_seed(seed)
            model: Any = NextTokenRewardModel.from_policy(policy)
            settings = {**common, **HEAD, "hidden_states_dir": str(folder.with_name("hidden_states"))}
        else:
            model = load_reward_model(demo_policy_path(), num_layers, seed=seed)
            settings = {**common, **REWARD}
        settings |= other
        config, make = (RewardConfig, RewardTrainer) if kind == "full" else (PrefixRewardConfig, PrefixRewardTrainer)
        trainer = make(model, config(**settings), train_dataset=dataset, processing_class=tokenizer)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    shutil.rmtree(partial, ignore_errors=True)
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(partial)
    os.replace(partial, folder)
    return seconds


def _dpo_trainer(config: DPOConfig, tokenizer: Any, rows: list[dict[str, Any]]) -> DPOTrainer:
    messages = [{column: row[column] for column in ("prompt", "chosen", "rejected")} for row in rows]
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(demo_policy_path(), dtype="float32"),
        args=config,
        train_dataset=datasets.Dataset.from_list(messages),
        processing_class=tokenizer,
        peft_config=LoraConfig(**LORA),
    )
    # TRL closes every response with the end token, also those that were cut off while they were sampled. The same ids
    # as the reward models': an end where one was seen.
    trainer.train_dataset = datasets.Dataset.from_list(
        [
            {
                "prompt_ids": row["chosen_ids"][: row["prompt_length"]],
                "chosen_ids": row["chosen_ids"][row["prompt_length"] :],
                "rejected_ids": row["rejected_ids"][row["prompt_length"] :],
            }
            for row in rows
        ]
    )
    return trainer
