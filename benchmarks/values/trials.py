"""What makes a value model steer better: more data, other targets, more layers, a second round?

    python -m benchmarks.values.trials --stages train sample     in parts: a run that was stopped continues
    python -m benchmarks.values.trials --stages report

Every trial changes one thing of the value model of benchmarks/baselines/table.py, whose folder it shares. The report
adds the figures of finished pieces to results/baselines.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch

from benchmarks.baselines.baseline_sampler import BaselineSampler
from benchmarks.baselines.table import FIGURES
from benchmarks.estimates import difference, estimate, mean_curve
from benchmarks.models import load_policy, train
from benchmarks.paper.table import make_parser, sample_texts
from benchmarks.pieces import gold_at, keep_figures
from benchmarks.record import commit, record
from benchmarks.tasks import TASKS
from benchmarks.values.rollout_models import KINDS, ROLLOUTS, rated, sampled_rollouts, saved_rollouts
from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.cli.lines import json_lines
from rgtg_hf.files import write_whole
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.rewards.value_model import as_reward_model

DIVERGENCES = (2.0, 4.0, 6.0)
FIRST, SECOND = 8, 4  # responses to a prompt, of the policy and of the second round: as many as the others have
GUIDED_TO = 3.0  # nats per response of the second round

Rows = list[dict[str, Any]]


class Trial(NamedTuple):
    """One change of a value model.

    Attributes:
        name: What is told.
        rows: Its rated responses, of those of the policy and those of the second round.
        settings: Of the trainer, in place of the usual ones.
        num_layers: Layers of the policy that the model starts from; None for the usual number.
        beside: Another kind of model on the same responses, whose rewards are added to those of the usual value
            model. Nothing is trained then.
    """

    name: str
    rows: Callable[[Rows, Callable[[], Rows]], Rows] = lambda policy, second: policy
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
    num_layers: int | None = None
    beside: str | None = None


def of_each(rows: Rows, count: int) -> Rows:
    """The first responses to each prompt."""
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for row in rows:
        seen[json.dumps(row["prompt"])] += 1
        if seen[json.dumps(row["prompt"])] <= count:
            kept.append(row)
    return kept


def unweighted(rows: Rows) -> Rows:
    """Rows that stand for themselves: the value of the policy that wrote them, guided or not."""
    return [row | {"log_ratios": []} for row in rows]


TRIALS = {
    "value_half": Trial("half the responses", lambda policy, second: of_each(policy, ROLLOUTS["num_responses"] // 2)),
    "value_first": Trial("two thirds of the responses", lambda policy, second: of_each(policy, FIRST)),
    "value_rounds": Trial("two thirds, one third guided", lambda policy, second: of_each(policy, FIRST) + second()),
    "value_on_policy": Trial(
        "the same, without weights", lambda policy, second: of_each(policy, FIRST) + unweighted(second())
    ),
    "value_fine": Trial("51 bins", settings={"num_bins": 51}),
    "value_gaussian": Trial("Gaussian targets", settings={"targets": "gaussian"}),
    "value_one_epoch": Trial("one epoch", settings={"num_train_epochs": 1}),
    "value_four_epochs": Trial("four epochs", settings={"num_train_epochs": 4}),
    "value_small": Trial("4 layers", num_layers=4),
    "value_whole": Trial("all 30 layers", num_layers=30),
    "value_and_pairs": Trial("and a reward model of pairs", beside="rollouts"),
    "value_and_head": Trial("and a steering head", beside="rollouts_head"),
}


class TrialSampler(BaselineSampler):
    """Writes the missing pieces of the trials."""

    order: ClassVar[tuple[str, ...]] = tuple(TRIALS)

    def run(self, methods: Iterable[str]) -> None:
        """Samples what the models of some trials guide."""
        for name in self.order:
            if name in methods and (guides := self._guides(name)) is not None:
                for beta in self._betas(name, **guides):
                    self._keep(name, beta, partial(self._guided, self._processor(**guides), beta))

    def _guides(self, name: str) -> dict[str, Any] | None:
        """What guides in a trial: a value model, or it and another model, each by itself as strong as the other."""
        beside = TRIALS[name].beside
        model = self._reward_model("value" if beside else name)
        other = None if beside is None else self._guide(beside)
        if model is None or (beside is not None and other is None):
            return None
        values = as_reward_model(model)
        if beside is None:
            return {"model": values}
        strengths = [self._strength("value_b0", values), self._strength(beside, other)]
        return {"model": [values, other], "weights": strengths}

    def _guide(self, kind: str) -> Any:
        return self._steering_head(kind) if KINDS[kind] == "head" else self._reward_model(kind)

    def _strength(self, kind: str, model: Any) -> float:
        """The beta of a model that diverges as the second round does."""
        return dict(zip(self.settings["divergences"], self._betas(kind, model), strict=True))[GUIDED_TO]

    def second_round(self) -> Rows:
        """Responses to the training prompts by the policy, guided by the value of the first two thirds."""
        file = self.folder / f"second_rollouts-{self.task}-{self.seed}.jsonl"
        if not file.exists():
            values = as_reward_model(self._reward_model("value_first"))
            beta = self._strength("value_first", values)
            guide = RewardGuidedLogitsProcessor(values, beta, ROLLOUTS["top_k"], **self._special_tokens())
            rows = sampled_rollouts(self.seed, processor=guide, num_responses=SECOND)
            write_whole(file, json_lines(rows))
        return rated([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()], self.task)

    def squared_errors(self, kind: str) -> list[float] | None:
        """How far values are from the reward that came, the mean over prefixes, for one response to each prompt."""
        file = self._file("policy", 0)
        trained = kind == "value" or TRIALS[kind].beside is None
        if not trained or not file.exists() or (model := self._reward_model(kind)) is None:
            return None
        written = json.loads(file.read_text(encoding="utf-8"))
        gold = TASKS[self.task].gold(written["texts"])
        errors = []
        for prompt, own, reward in zip(self._prompt_ids, written["ids"], gold, strict=True):
            with torch.inference_mode():
                values = prefix_rewards(model, torch.tensor([prompt + own]))[0, len(prompt) - 1 :]
            errors.append(float((values - reward).square().mean()))
        return errors


def train_trials(options: argparse.Namespace, task: str, seed: int) -> None:
    """Trains the missing models of the trials that are wanted, in their order: the second round needs the first."""
    _, tokenizer = load_policy()
    settings = {name: getattr(options, name) for name in ("top_k", "max_new_tokens", "pilot_prompts", "divergences")}
    sampler = TrialSampler(options.folder, task, seed, settings | {"prompts": None, "dtype": options.dtype}, commit())
    for kind, trial in TRIALS.items():
        target = options.folder / f"{task}-{kind}-{seed}"
        if kind not in options.methods or target.exists() or trial.beside is not None:
            continue
        policy = rated(saved_rollouts(options.folder, seed), task)
        rows = trial.rows(policy, sampler.second_round)
        layers = trial.num_layers or options.num_layers[task]
        shared = {"seed": seed, "num_layers": layers, "max_steps": options.max_steps}
        seconds = train("value", target, tokenizer, rows, **shared, **trial.settings)
        notes = {"rows": len(rows), "seconds": round(seconds, 1), "commit": commit(), "num_layers": layers}
        write_whole(target.with_suffix(".json"), json.dumps(notes | trial.settings))
        print(f"trained {target.name} on {len(rows)} rows in {seconds:.0f} s", flush=True)


def report(options: argparse.Namespace, task: str, figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each trial: its gold reward at equal divergence and its squared error, beside those of the usual."""
    settings = {"prompts": None, "dtype": options.dtype}
    samplers = {seed: TrialSampler(options.folder, task, seed, settings, None) for seed in options.seeds}
    usual: dict[int, list[float]] = {}
    rows = []
    names = {"value": "the usual model"} | {kind: trial.name for kind, trial in TRIALS.items()}
    for kind, name in names.items():
        row: dict[str, Any] = {"trial": kind, "name": name}
        for kl in DIVERGENCES:
            of_seed = gold_at(figures, task, "value_b0" if kind == "value" else kind, kl)
            if of_seed:
                row[f"gold at {kl:g} nats"] = estimate(mean_curve(of_seed.values()))
            if kind != "value":
                theirs = gold_at(figures, task, "value_b0", kl)
                row |= difference(of_seed, theirs, f"minus the usual at {kl:g} nats")
        errors = {seed: found for seed, one in samplers.items() if (found := one.squared_errors(kind)) is not None}
        if errors:
            row["squared error"] = estimate(mean_curve(errors.values()))
            row |= difference(errors, usual, "squared error minus the usual")
        usual = usual or errors
        if len(row) > 2:
            rows.append(row)
    return rows


def main() -> None:
    parser = make_parser(__doc__, "outputs/baselines", TrialSampler.order)
    parser.set_defaults(divergences=[1.0, 3.0, 9.0], tasks=["sentiment"], seeds=[0])
    options = parser.parse_args()
    for seed in options.seeds:
        for task in options.tasks:
            if "train" in options.stages:
                train_trials(options, task, seed)
    if "sample" in options.stages:
        sample_texts(options, TrialSampler)
    if "report" in options.stages:
        figures = keep_figures(options.folder, options.tasks, FIGURES, texts=True)
        results = {task: report(options, task, figures) for task in options.tasks}
        used = {name: value for name, value in vars(options).items() if name not in ("folder", "output", "stages")}
        print(record("value_trials", used | {"rollouts": ROLLOUTS}, results, options.output))


if __name__ == "__main__":
    main()
