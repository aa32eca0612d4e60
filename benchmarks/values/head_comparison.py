"""Compares heads of advantages that learned from different responses, in the folder of benchmarks/baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.baselines.baseline_sampler import ADVANTAGES, BaselineSampler
from benchmarks.baselines.page import equal_table
from benchmarks.markdown_tables import fill
from benchmarks.models import load_policy
from benchmarks.paper.table import make_parser, sample_texts, settings_of
from benchmarks.pieces import Shown, compare_at, keep_figures, rows_of
from benchmarks.record import ROOT, record, result_path
from benchmarks.tasks import TASKS
from benchmarks.values.rollout_models import train_on_rollouts, train_on_rows

__all__ = ["FIRST", "compare_heads"]

FIRST = "advantages"  # the head of the comparison of methods
PAGE = ROOT / "docs" / "values-log.md"
Responses = Callable[[Path, str, int, str], list[dict[str, Any]]]


class HeadSampler(BaselineSampler):
    """Writes the missing pieces of heads of one task and seed, each by the name of its model."""

    def run(self, methods: Iterable[str]) -> None:
        """Samples the missing pieces of the policy or of heads."""
        for method in methods:
            if method == "policy":
                self._policy()
            else:
                self._sweep_head(method, method, ADVANTAGES)


def compare_heads(
    description: str | None,
    name: str,
    heads: Mapping[str, str],
    responses: Responses,
    *,
    divergences: Sequence[float],
    pairs: Sequence[tuple[str, str]],
    tasks: Sequence[str],
    **settings: Any,
) -> None:
    """Runs the stages of a comparison, as far as the command line wants them. What is finished is not done again.

    The report writes its tables into docs/values-log.md, too.

    Args:
        description: The script's.
        name: The name of the results.
        heads: Their names in tables, `FIRST` among them.
        responses: Gives the rated responses that another head learns from, by folder, task, seed and head.
        divergences: Where heads are compared, in nats per response.
        pairs: The heads whose difference has an interval.
        tasks: Keys of `TASKS`, unless the command line names some.
        **settings: For the record.
    """
    of_heads = {head: Shown(label, reward_rows="0", strength="beta {n:g}") for head, label in heads.items()}
    shown = {"policy": Shown("policy, sampled", "1", "0")} | of_heads
    parser = make_parser(description, "outputs/baselines", list(shown))
    parser.set_defaults(tasks=list(tasks), seeds=[0])
    options = parser.parse_args()
    if "train" in options.stages:
        for seed in options.seeds:
            for task in options.tasks:
                _train(options.folder, task, seed, options.num_layers[task], heads, responses)
    if "sample" in options.stages:
        sample_texts(options, HeadSampler)
    if "report" in options.stages:
        file = result_path(f"{name}.jsonl", options.output)
        figures = keep_figures(options.folder, options.tasks, file, shown)
        results = {
            task: {
                "gold": TASKS[task].gold_name,
                "rows": rows_of(figures, task, shown),
                "at equal divergence": compare_at(figures, task, divergences, list(heads), pairs),
            }
            for task in options.tasks
        }
        print(record(name, settings_of(options) | settings, results, options.output))
        if options.output is None:
            tables = {f"{name}-{task}": equal_table(result, FIRST) for task, result in results.items()}
            PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


def _train(folder: Path, task: str, seed: int, num_layers: int, heads: Iterable[str], responses: Responses) -> None:
    """Trains the heads that are missing."""
    train_on_rollouts(folder, task, seed, [FIRST], num_layers, {})
    _, tokenizer = load_policy()
    for head in heads:
        target = folder / f"{task}-{head}-{seed}"
        if not target.exists():
            rows = responses(folder, task, seed, head)
            train_on_rows("advantage", target, tokenizer, rows, seed=seed, num_layers=num_layers)
