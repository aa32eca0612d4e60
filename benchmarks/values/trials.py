r"""How should a reward or value model be trained on rollouts? Judged on training prompts that it was not trained on.

    python -m benchmarks.values.trials --stages train      a quarter of an hour each; a run that was stopped continues
    python -m benchmarks.values.trials --stages report

The responses are those of benchmarks/baselines/table.py, whose folder it shares. Models are trained on those to three
quarters of the prompts. On the others, the increments of all candidates are read along each response. As in
benchmarks/heads/slopes.py,

    S = sum over steps t of A(y_t) - E[A(v)]          V = E of the sum over steps t of Var[A(v)]
    slope = Cov(R, S) / sqrt(V)

and at D nats per response, the gain in gold reward is slope · sqrt(2 D) to first order. The best slope that there can
be is the standard deviation of R. The values of a model that is right are a martingale: E[A(v)] is 0. What is left of
it, D = sum of E[A(v)], is what later tokens take back. `taken back` is the correlation of S and D.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.estimates import estimate
from benchmarks.heads.slopes import centre, compare, fold_of
from benchmarks.models import load_policy, train
from benchmarks.record import commit, record
from benchmarks.tasks import TASKS
from benchmarks.values.rollout_models import ROLLOUTS, rated, saved_rollouts
from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.evaluation.rollouts import pairs_of_rollouts
from rgtg_hf.files import write_whole
from rgtg_hf.rewards.load import load_reward_model
from rgtg_hf.rewards.value_model import as_reward_model, is_value_model

FOLDS = 4  # of the prompts; the first is held out
JUDGED = 6  # held-out responses to a prompt

Rows = list[dict[str, Any]]


class Trial(NamedTuple):
    """One way of training.

    Attributes:
        name: What is told.
        kind: `value` or `prefix`.
        settings: Of the trainer, in place of those of benchmarks/models.py.
        num_layers: Layers of the policy that the model starts from; None for the usual number.
        share: Of the training prompts.
    """

    name: str
    kind: str = "value"
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
    num_layers: int | None = None
    share: float = 1.0


TRIALS = {
    "value": Trial("value: learning rate 1e-4, two epochs"),
    "value_slow": Trial("learning rate 3e-5", settings={"learning_rate": 3e-5}),
    "value_fast": Trial("learning rate 3e-4", settings={"learning_rate": 3e-4}),
    "value_faster": Trial("learning rate 1e-3", settings={"learning_rate": 1e-3}),
    "value_once": Trial("one epoch", settings={"num_train_epochs": 1}),
    "value_often": Trial("3e-4, four epochs", settings={"learning_rate": 3e-4, "num_train_epochs": 4}),
    "value_half": Trial("3e-4, half of the prompts", settings={"learning_rate": 3e-4}, share=0.5),
    "value_fine": Trial("3e-4, 51 bins", settings={"learning_rate": 3e-4, "num_bins": 51}),
    "value_gaussian": Trial("3e-4, Gaussian targets", settings={"learning_rate": 3e-4, "targets": "gaussian"}),
    "value_deep": Trial("3e-4, 10 layers", settings={"learning_rate": 3e-4}, num_layers=10),
    "pairs": Trial("pairs: learning rate 1e-4, one epoch", "prefix"),
    "pairs_fast": Trial("learning rate 3e-4", "prefix", {"learning_rate": 3e-4}),
    "pairs_faster": Trial("learning rate 1e-3", "prefix", {"learning_rate": 1e-3}),
}


class Steps(NamedTuple):
    """The held-out responses and what the policy might have written at each of their steps.

    Attributes:
        rows: Rows of [`rated`][benchmarks.values.rollout_models.rated], `JUDGED` of each prompt, those together.
        candidates: Of each row, the policy's most likely tokens at each step, shape `[steps, k]`.
        scores: Of each row, their log-probabilities, renormalised, shape `[steps, k]`.
    """

    rows: Rows
    candidates: list[Tensor]
    scores: list[Tensor]


class Sums(NamedTuple):
    """Sums over the steps of each response, each of shape `[responses]`."""

    chosen: Tensor  # S
    drift: Tensor  # D
    variance: Tensor


def prompt_of(row: dict[str, Any]) -> str:
    return row["prompt"][-1]["content"]


def training_rows(rows: Rows, share: float) -> Rows:
    """The rows of the prompts that are not held out, or of a share of these prompts."""
    prompts = list(dict.fromkeys(prompt_of(row) for row in rows if fold_of(prompt_of(row), FOLDS)))
    kept = set(prompts[: round(share * len(prompts))])
    return [row for row in rows if prompt_of(row) in kept]


@torch.inference_mode()
def held_out_steps(rows: Rows, top_k: int) -> Steps:
    """The steps of the responses that are judged."""
    policy, _ = load_policy()
    by_prompt: dict[str, Rows] = defaultdict(list)
    for row in rows:
        if not fold_of(prompt_of(row), FOLDS):
            by_prompt[prompt_of(row)].append(row)
    judged = [row for group in by_prompt.values() if len(group) >= JUDGED for row in group[:JUDGED]]
    steps = Steps(judged, [], [])
    for row in judged:
        start = len(row["prompt_ids"]) - 1
        logits = policy(torch.tensor([row["prompt_ids"] + row["completion_ids"]])).logits[0, start:-1]
        found = logits.float().topk(top_k)
        steps.candidates.append(found.indices)
        steps.scores.append(found.values.log_softmax(-1))
    return steps


@torch.inference_mode()
def sums_of(model: Any, steps: Steps, pad_token_id: int) -> Sums:
    """Writes the responses again, all in one batch, with a processor that reads the increments of all candidates."""
    width = max(len(row["prompt_ids"]) for row in steps.rows)
    longest = max(len(row["completion_ids"]) for row in steps.rows)
    ids = torch.full((len(steps.rows), width + longest), pad_token_id)
    mask = torch.zeros(len(steps.rows), width, dtype=torch.long)
    for place, row in enumerate(steps.rows):
        start = width - len(row["prompt_ids"])
        own = row["prompt_ids"] + row["completion_ids"]
        ids[place, start : start + len(own)] = torch.tensor(own)
        mask[place, start:] = 1
    # Rows that have ended go on with padding, which is not counted.
    reader = RewardGuidedLogitsProcessor(
        model, 1e-6, steps.candidates[0].shape[1], attention_mask=mask, pad_token_id=pad_token_id, collect_records=True
    )
    vocabulary = model.config.get_text_config().vocab_size
    chosen, drift, variance = torch.zeros(3, len(steps.rows), dtype=torch.float64)
    for step in range(longest):
        scores = torch.full((len(steps.rows), vocabulary), -torch.inf)
        for place, (candidates, own) in enumerate(zip(steps.candidates, steps.scores, strict=True)):
            at = min(step, len(own) - 1)
            scores[place, candidates[at]] = own[at]
        reader(ids[:, : width + step], scores)
        found = reader.stats.records.pop()
        policy, increments = found.policy.exp().double(), found.increments.double()
        mean = (policy * increments).sum(-1)
        written = (increments * (found.candidate_ids == ids[:, width + step, None])).sum(-1)
        live = torch.tensor([step < len(row["completion_ids"]) for row in steps.rows])
        chosen += torch.where(live, written - mean, 0.0)
        drift += torch.where(live, mean, 0.0)
        variance += torch.where(live, (policy * (increments - mean[:, None]).square()).sum(-1), 0.0)
    return Sums(chosen, drift, variance)


def judge(sums: Sums, gold: Tensor, first: Tensor | None) -> tuple[dict[str, Any], Tensor]:
    """The row of a trial, and its slopes, which are compared with those of the first."""
    slopes = gold * sums.chosen / sums.variance.mean().sqrt()
    chosen, drift, total = (
        centre(each.tolist(), JUDGED) for each in (sums.chosen, sums.drift, sums.chosen + sums.drift)
    )
    row: dict[str, Any] = {"slope": estimate(slopes.tolist())}
    if first is not None:
        row["minus the first"] = compare(slopes, first)
    row |= {
        "reward and increments": correlation(gold, chosen),
        "reward and the whole": correlation(gold, total),
        "taken back": correlation(chosen, drift),
    }
    return row, slopes


def correlation(one: Tensor, other: Tensor) -> float:
    """Of two that have a mean of 0."""
    return float((one * other).sum() / (one.square().sum() * other.square().sum()).sqrt())


def train_trials(options: argparse.Namespace, task: str) -> None:
    _, tokenizer = load_policy()
    rows = rated(saved_rollouts(options.folder, options.seed), task)
    for kind in options.trials:
        trial, target = TRIALS[kind], folder_of(options, task, kind)
        if target.exists():
            continue
        own = training_rows(rows, trial.share)
        trained = own if trial.kind == "value" else pairs_of_rollouts(own, options.seed)
        layers = trial.num_layers or options.num_layers
        seconds = train(trial.kind, target, tokenizer, trained, seed=options.seed, num_layers=layers, **trial.settings)
        notes = {"rows": len(trained), "seconds": round(seconds, 1), "commit": commit(), "num_layers": layers}
        write_whole(target.with_suffix(".json"), json.dumps(notes | trial.settings))
        print(f"trained {target.name} on {len(trained)} rows in {seconds:.0f} s", flush=True)


def folder_of(options: argparse.Namespace, task: str, kind: str) -> Path:
    return options.folder / f"trial-{task}-{kind}-{options.seed}"


def report(options: argparse.Namespace, task: str) -> list[dict[str, Any]]:
    _, tokenizer = load_policy()
    steps = held_out_steps(rated(saved_rollouts(options.folder, options.seed), task), ROLLOUTS["top_k"])
    gold = centre([row["reward"] for row in steps.rows], JUDGED)
    results, first = [], None
    for kind, trial in TRIALS.items():
        saved = folder_of(options, task, kind)
        if not saved.exists():
            continue
        model = load_reward_model(saved)
        guide = as_reward_model(model) if is_value_model(model) else model
        row, slopes = judge(sums_of(guide, steps, tokenizer.pad_token_id), gold, first)
        first = slopes if first is None else first
        results.append({"trial": kind, "name": trial.name} | row)
        print(results[-1], flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("--folder", type=Path, default=Path("outputs/baselines"), help="of rollouts and models")
    add("--stages", nargs="+", choices=("train", "report"), default=["train", "report"])
    add("--tasks", nargs="+", choices=TASKS, default=["plain"])
    add("--trials", nargs="+", choices=TRIALS, default=list(TRIALS), help="models to train")
    add("--seed", type=int, default=0, help="of rollouts and training")
    add("--num_layers", type=int, default=4, help="of the models")
    add("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    options = parser.parse_args()
    for task in options.tasks:
        if "train" in options.stages:
            train_trials(options, task)
    if "report" in options.stages:
        results = {task: report(options, task) for task in options.tasks}
        used = {name: value for name, value in vars(options).items() if name not in ("folder", "output", "stages")}
        print(record("value_trials", used | {"rollouts": ROLLOUTS}, results, options.output))


if __name__ == "__main__":
    main()
