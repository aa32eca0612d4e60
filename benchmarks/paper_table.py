"""The paper's table on a real model: who raises the gold reward, at what divergence, and at what price.

    python benchmarks/paper_table.py --quick                              under a quarter of an hour on two cores
    python benchmarks/paper_table.py                                      the full run
    python benchmarks/paper_table.py --tasks plain --seeds 1 --stages train sample     one lane of several

Every finished piece is a file of its own in the folder, so a run that was stopped goes on, and lanes that share a
folder share their work. All is trained on pairs and piloted on prompts that no evaluation prompt is among.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import datasets
from heads_common import HEAD, quiet_trainer
from paper_data import TASKS, training_pairs, write_atomically
from paper_models import COMMON, DPO, KINDS, LORA, REWARD, train
from paper_report import report_task
from paper_reuse import take_over
from paper_sample import METHODS, Sampler
from record import record
from transformers import AutoTokenizer
from transformers.utils import logging

from rgtg_hf.cli.demo_policy import demo_policy_path
from rgtg_hf.evaluation.report import find_commit

STAGES = ("train", "sample", "report")
# What --quick stands for, where an option is not given. It shows that all works; it measures nothing.
QUICK: dict[str, Any] = {
    "folder": Path("outputs/paper_table_quick"),
    "output": Path("outputs/paper_table_quick"),
    "seeds": [0],
    "num_layers": {"sentiment": 4, "plain": 4},
    "max_steps": 5,
    "training_prompts": 32,
    "prompts": 16,
    "draws": 4,
    "divergences": [1.0, 5.0],
    "max_new_tokens": 24,
    "pilot_prompts": 8,
}


def train_models(options: argparse.Namespace) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_policy_path())
    if options.heads:
        take_over(options.heads, options.folder, options.seeds, tokenizer, options.max_new_tokens)
    for seed in options.seeds:
        for task in options.tasks:
            rows = training_pairs(task, tokenizer, options.folder, options.training_prompts)
            for kind in options.models:
                target = options.folder / f"{task}-{kind}-{seed}"
                note = target.with_suffix(".json")
                if target.exists():
                    continue
                with quiet_trainer():
                    settings = {"num_layers": options.num_layers[task], "max_steps": options.max_steps}
                    seconds = train(kind, target, tokenizer, rows, seed=seed, **settings)
                notes = {"pairs": len(rows), "seconds": round(seconds, 1), "commit": commit(), **settings}
                write_atomically(note, json.dumps(notes))
                print(f"trained {target.name} in {seconds:.0f} s", flush=True)


def sample_texts(options: argparse.Namespace) -> None:
    names = ("top_k", "max_new_tokens", "prompts", "pilot_prompts", "draws", "divergences", "dtype")
    settings = {name: getattr(options, name) for name in names}
    for seed in options.seeds:
        for task in options.tasks:
            Sampler(options.folder, task, seed, settings, commit()).run(options.methods)


def write_report(options: argparse.Namespace) -> None:
    output = options.output or Path(__file__).parent / "results"
    output.mkdir(parents=True, exist_ok=True)
    tasks = {task: result for task in options.tasks if (result := report_task(options.folder, task, output))}
    settings = vars(options).copy()
    for name in ("folder", "heads", "output", "stages"):
        del settings[name]
    training = {"common": COMMON, "reward models": REWARD, "head": HEAD, "dpo": DPO, "lora": LORA}
    print(record("paper_table", settings | {"training": training}, tasks, output))


def commit() -> str | None:
    return find_commit(Path(__file__).parent)


def _layers(text: str) -> dict[str, int]:
    return {task: int(number) for task, number in (part.split("=") for part in text.split(","))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("--folder", type=Path, default=Path("outputs/paper_table"), help="where finished pieces are kept")
    add("--output", type=Path, help="folder of the report (default: benchmarks/results)")
    add("--stages", nargs="+", choices=STAGES, default=STAGES)
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    add("--models", nargs="+", choices=KINDS, default=list(KINDS), help="what to train")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training and sampling")
    add("--num_layers", type=_layers, default={"sentiment": 10, "plain": 4}, help="of reward models")
    add("--heads", type=Path, help="a folder of bench_heads.py, whose models and samples for sentiment are taken over")
    add("--max_steps", type=int, default=-1, help="of training")
    add("--training_prompts", type=int, help="whose responses plain language ranks, of 256 (default: all)")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="what to sample")
    add("--prompts", type=int, help="evaluation prompts, of 104 (default: all)")
    add("--pilot_prompts", type=int, default=24, help="training prompts that betas are found on")
    add("--draws", type=int, default=8, help="responses of the policy to each prompt, for best-of-n")
    add("--divergences", type=float, nargs="+", default=[1.0, 3.0, 9.0], help="nats per response to steer to")
    add("--dtype", default="float32", help="of reward models while they score; they are trained in float32")
    add("--top_k", type=int, default=10, help="candidates per step")
    add("--max_new_tokens", type=int, default=48, help="tokens per response at most")
    add("--quick", action="store_true", help="small models, 16 prompts, one seed and a short training")
    options = parser.parse_args()
    if options.quick:
        for name, value in QUICK.items():
            if getattr(options, name) == parser.get_default(name):
                setattr(options, name, value)
    logging.set_verbosity_error()
    datasets.disable_progress_bars()
    options.folder.mkdir(parents=True, exist_ok=True)
    if "train" in options.stages:
        train_models(options)
    if "sample" in options.stages:
        sample_texts(options)
    if "report" in options.stages:
        write_report(options)


if __name__ == "__main__":
    main()
