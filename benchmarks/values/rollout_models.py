"""Models that are trained on the policy's own responses, all of them: values, and rewards of pairs."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

from benchmarks.models import DEVICE, load_policy, train
from benchmarks.paper.sample import Sampler
from benchmarks.paper.table import sample_texts
from benchmarks.record import commit
from benchmarks.tasks import TASKS
from rgtg_hf import steering
from rgtg_hf.cli.demo.demo_rows import training_prompts
from rgtg_hf.cli.lines import json_lines
from rgtg_hf.evaluation.rollouts import pairs_of_rollouts, rollouts
from rgtg_hf.files import write_whole

__all__ = [
    "BASELINES",
    "GUIDE_BETA",
    "KINDS",
    "ROLLOUTS",
    "rated",
    "rated_rollouts",
    "train_and_sample",
    "train_on_rollouts",
    "train_on_rows",
]

ROLLOUTS: dict[str, Any] = {"num_responses": 12, "top_k": 10, "max_new_tokens": 48}
GUIDE_BETA = 2.7  # of a head of advantages: about a nat per response
_PROMPTS_PER_BATCH = 16
# Names of the models, which other benchmarks know, and what is trained for each. A pair has two responses and each is
# in two pairs, so one epoch of pairs reads as many tokens as two of rated responses.
KINDS = {"value": "value", "rollouts": "prefix", "rollouts_head": "head"}
# Those of other methods, on the same responses or pairs. Those that are the whole policy are on every second pair,
# where each response is in one, because they take three times as long.
BASELINES = {"advantages": "advantage", "rollouts_full": "full", "rollouts_dpo": "dpo", "rollouts_arm": "arm"}


def train_and_sample(
    options: argparse.Namespace, kinds: list[str], sampler: type[Sampler], settings: dict[str, Any] | None = None
) -> None:
    """Runs the stages before the report, as far as they are wanted. What is finished is not done again.

    Args:
        options: As [`make_parser`][benchmarks.paper.table.make_parser] reads them.
        kinds: Keys of `KINDS` or `BASELINES`.
        sampler: Writes the responses of a task and seed.
        settings: Of the trainers, by kind, in place of those of benchmarks/models.py.
    """
    if "train" in options.stages:
        for seed in options.seeds:
            for task in options.tasks:
                train_on_rollouts(options.folder, task, seed, kinds, options.num_layers[task], settings or {})
    if "sample" in options.stages:
        sample_texts(options, sampler)


def train_on_rollouts(
    folder: Path, task: str, seed: int, kinds: list[str], num_layers: int, settings: dict[str, Any]
) -> None:
    """Trains the models that are missing, each into `folder/task-kind-seed`.

    Args:
        folder: Where models and rollouts are kept.
        task: A key of `TASKS`, whose gold reward rates the rollouts.
        seed: Of the rollouts, the new weights and the order of rows.
        kinds: Keys of `KINDS` or `BASELINES`.
        num_layers: Layers of the policy that reward models start from.
        settings: Of the trainers, by kind.
    """
    _, tokenizer = load_policy()
    for kind in kinds:
        target = folder / f"{task}-{kind}-{seed}"
        if target.exists():
            continue
        rows = rated_rollouts(folder, task, seed)
        shared = {"seed": seed, "num_layers": num_layers} | settings.get(kind, {})
        train_on_rows((KINDS | BASELINES)[kind], target, tokenizer, rows, **shared)


def train_on_rows(
    trainer: str, target: Path, tokenizer: Any, rows: list[dict[str, Any]], *, seed: int, num_layers: int, **other: Any
) -> None:
    """Trains one model on rated responses, or on pairs of them, and writes how beside it.

    Args:
        trainer: A kind of [`train`][benchmarks.models.train].
        target: The folder of the model.
        tokenizer: The policy's tokenizer.
        rows: Of [`rated_rollouts`].
        seed: Of the pairs, the new weights and the order of rows.
        num_layers: Layers of the policy that the model starts from.
        **other: Settings of the trainer.
    """
    trained = rows if trainer in ("value", "advantage") else pairs_of_rollouts(rows, seed)
    if trainer in ("dpo", "arm"):
        trained = trained[::2]
    seconds = train(trainer, target, tokenizer, trained, seed=seed, num_layers=num_layers, **other)
    tokens = sum(len(row["completion_ids"]) for row in rows)
    notes = {"rows": len(trained), "tokens of responses": tokens, "seconds": round(seconds, 1), "commit": commit()}
    write_whole(target.with_suffix(".json"), json.dumps(notes | {"num_layers": num_layers} | other))
    print(f"trained {target.name} on {len(trained)} rows in {seconds:.0f} s", flush=True)


def rated_rollouts(folder: Path, task: str, seed: int, guide: Path | None = None) -> list[dict[str, Any]]:
    """The rollouts of a seed, rated by a task's gold reward, sampled once.

    Args:
        folder: Where rollouts are kept.
        task: A key of `TASKS`.
        seed: Of sampling.
        guide: A steering head that guides the policy. Otherwise all tasks have the same responses.
    """
    file = folder / (f"rollouts-{seed}.jsonl" if guide is None else f"rollouts-{guide.name}-guided.jsonl")
    if not file.exists():
        write_whole(file, json_lines(_sampled(seed, guide)))
    return rated(file, task)


def rated(file: Path, task: str) -> list[dict[str, Any]]:
    """The rollouts of a file, rated by a task's gold reward."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    gold = TASKS[task].gold([row["completion"][-1]["content"] for row in rows])
    every = [row | {"reward": float(reward)} for row, reward in zip(rows, gold, strict=True)]
    return [row for row in every if row["completion_ids"]]


def _sampled(seed: int, guide: Path | None) -> list[dict[str, Any]]:
    policy, tokenizer = load_policy(DEVICE)
    prompts, found = training_prompts(), []
    guided: Any = contextlib.nullcontext()
    if guide is not None:
        guided = steering(policy, [(str(guide), GUIDE_BETA)], top_k=ROLLOUTS["top_k"])
    with guided as processor:
        for start in range(0, len(prompts), _PROMPTS_PER_BATCH):
            batch = prompts[start : start + _PROMPTS_PER_BATCH]
            settings = ROLLOUTS | {"seed": 1000 * seed + start, "processor": processor}
            found += rollouts(policy, tokenizer, batch, _no_reward, **settings)
            print(f"seed {seed}: rollouts of {start + len(batch)} of {len(prompts)} prompts", flush=True)
    return found


def _no_reward(prompts: list[str], responses: list[str]) -> list[float]:
    return [0.0] * len(responses)
