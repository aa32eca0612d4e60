"""Trains a tiny reward model in a process of its own: `python run_training.py OUTPUT_DIR SETTINGS_JSON`.

Writes the loss of each step to `losses.json` in the output directory. Tests start it with `accelerate launch`, and
kill it.
"""

import json
import os
import signal
import sys
from pathlib import Path

import datasets
import torch
from datasets import Dataset
from torch.distributed.fsdp import fully_shard
from transformers import TrainerCallback

from rgtg_hf import AdvantageConfig, AdvantageTrainer, PrefixRewardConfig, PrefixRewardTrainer
from tests.training.helpers import make_policy, make_reward_model, make_tokenizer, text_rows

SETTINGS = {
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "max_steps": 20,
    "per_device_train_batch_size": 4,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
}


class KillAt(TrainerCallback):
    """Ends the process at a step, with no chance to clean up."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def rated_rows(number):
    """Responses of different lengths and weights to two prompts."""
    return [
        {
            "prompt_ids": [5, 6 + place % 2],
            "completion_ids": [7 + (place + step) % 9 for step in range(1 + place % 4)],
            "reward": float(place % 5),
            "log_ratios": [0.1 * (place % 3)] * (1 + place % 4),
        }
        for place in range(number)
    ]


def make_trainer(output_dir, settings):
    datasets.disable_progress_bars()
    if settings.pop("of_advantages", False):
        return AdvantageTrainer(
            make_policy(),
            AdvantageConfig(str(output_dir), **SETTINGS | {"top_k": 4, "rank": 8} | settings),
            train_dataset=Dataset.from_list(rated_rows(32)),
            eval_dataset=Dataset.from_list(rated_rows(7)),
            processing_class=make_tokenizer(),
        )
    return PrefixRewardTrainer(
        make_reward_model(),
        PrefixRewardConfig(str(output_dir), **SETTINGS | settings),
        train_dataset=Dataset.from_list(text_rows(32)),
        eval_dataset=Dataset.from_list(text_rows(7)),
        processing_class=make_tokenizer(),
    )


def train(output_dir, settings):
    """Returns the loss of each step, and the metrics of a final evaluation."""
    names = ("resume", "kill_at", "save", "evaluate_first")
    resume, kill_at, save, evaluate_first = (settings.pop(name, None) for name in names)
    trainer = make_trainer(output_dir, settings)
    if kill_at is not None:
        trainer.add_callback(KillAt(kill_at))
    if evaluate_first:
        trainer.evaluate()
    trainer.train(resume_from_checkpoint=resume)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    # Under ZeRO-3 a process holds no more of a parameter than its shard, and the parameter itself is empty.
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    if save:
        trainer.save_model(str(output_dir / "model"))
    return {
        "losses": losses,
        "metrics": trainer.evaluate(),
        "parameters": parameters,
        "processes": trainer.args.world_size,
    }


def train_by_hand(output_dir, settings):
    """The trainer's loss in a loop of our own, sharded by FSDP2 if there are several processes.

    Accelerate refuses to shard on a CPU, but torch does not.
    """
    steps = settings.get("max_steps", SETTINGS["max_steps"])
    trainer = make_trainer(output_dir, settings)
    model = trainer.model.train()
    if trainer.args.world_size > 1:
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-6)
    losses = []
    batches = None
    while len(losses) < steps:
        batches = batches or iter(trainer.get_train_dataloader())
        samples, total = trainer.get_batch_samples(batches, 1, trainer.args.device)
        if not samples:
            batches = None
            continue
        loss = trainer.compute_loss(model, samples[0], num_items_in_batch=total)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(trainer.accelerator.reduce(loss.detach(), "mean").item())
    sharded = type(next(model.parameters())).__name__
    return {"losses": losses, "parameters": sharded, "processes": trainer.args.world_size}


if __name__ == "__main__":
    output, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    result = train_by_hand(output, settings) if settings.pop("by_hand", False) else train(output, settings)
    if int(os.environ.get("RANK", 0)) == 0:
        output.mkdir(parents=True, exist_ok=True)
        (output / "losses.json").write_text(json.dumps(result))
