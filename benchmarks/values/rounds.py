"""Does a second round of rollouts help? Heads of advantages of one round, of two, and of a round and a guided one.

    python -m benchmarks.values.rounds --stages train sample     two hours; a run that was stopped continues
    python -m benchmarks.values.rounds --stages report

The first head, the prompts and the folder are those of benchmarks/baselines/table.py. It guides the second round, and
a head is trained on the responses of both. Another head learns from as many responses of the policy alone.
"""

from __future__ import annotations

import argparse
from typing import ClassVar

from benchmarks.baselines.baseline_sampler import ADVANTAGES, BaselineSampler
from benchmarks.models import load_policy
from benchmarks.paper.table import make_parser, sample_texts, settings_of
from benchmarks.pieces import Shown, compare_at, keep_figures, rows_of
from benchmarks.record import record, result_path
from benchmarks.tasks import TASKS
from benchmarks.values.rollout_models import GUIDE_BETA, ROLLOUTS, rated_rollouts, train_on_rollouts, train_on_rows

DIVERGENCES = (1.0, 2.0, 4.0)
_HEAD = {"reward_rows": "0", "strength": "beta {n:g}"}
SHOWN = {
    "policy": Shown("policy, sampled", "1", "0"),
    "advantages": Shown("one round", **_HEAD),
    "two_rounds": Shown("two rounds of the policy", **_HEAD),
    "guided_round": Shown("the second round guided", **_HEAD),
}
HEADS = ("advantages", "two_rounds", "guided_round")
PAIRS = (("two_rounds", "advantages"), ("guided_round", "advantages"), ("guided_round", "two_rounds"))
SECOND = 100  # added to a seed: responses that no other benchmark trains on


class RoundsSampler(BaselineSampler):
    """Writes the missing pieces of the heads of one task and seed."""

    order: ClassVar[tuple[str, ...]] = tuple(SHOWN)

    def _two_rounds(self) -> None:
        self._sweep_head("two_rounds", "two_rounds", ADVANTAGES)

    def _guided_round(self) -> None:
        self._sweep_head("guided_round", "guided_round", ADVANTAGES)


def train_heads(options: argparse.Namespace, task: str, seed: int) -> None:
    """Trains the heads that are missing, the first one included."""
    folder, num_layers = options.folder, options.num_layers[task]
    train_on_rollouts(folder, task, seed, ["advantages"], num_layers, {})
    _, tokenizer = load_policy()
    for kind, guide in {"two_rounds": None, "guided_round": folder / f"{task}-advantages-{seed}"}.items():
        target = folder / f"{task}-{kind}-{seed}"
        if not target.exists():
            rows = rated_rollouts(folder, task, seed) + rated_rollouts(folder, task, seed + SECOND, guide)
            train_on_rows("advantage", target, tokenizer, rows, seed=seed, num_layers=num_layers)


def main() -> None:
    parser = make_parser(__doc__, "outputs/baselines", RoundsSampler.order)
    parser.set_defaults(tasks=["plain"], seeds=[0])
    options = parser.parse_args()
    for seed in options.seeds:
        for task in options.tasks:
            if "train" in options.stages:
                train_heads(options, task, seed)
    if "sample" in options.stages:
        sample_texts(options, RoundsSampler)
    if "report" in options.stages:
        file = result_path("rounds.jsonl", options.output)
        figures = keep_figures(options.folder, options.tasks, file, SHOWN)
        results = {
            task: {
                "gold": TASKS[task].gold_name,
                "rows": rows_of(figures, task, SHOWN),
                "at equal divergence": compare_at(figures, task, DIVERGENCES, HEADS, PAIRS),
            }
            for task in options.tasks
        }
        used = settings_of(options)
        settings = used | {"rollouts": ROLLOUTS, "guide_beta": GUIDE_BETA}
        print(record("rounds", settings, results, options.output))


if __name__ == "__main__":
    main()
