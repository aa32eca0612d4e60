"""How far do more responses carry? Heads of advantages of a budget's responses, and of several times as many.

    python -m benchmarks.baselines.prompts FILES --without outputs/baselines/prompts.jsonl --output others.jsonl
    rgtg-hf rollouts --model FOLDER --prompts others.jsonl --num_responses 12 --max_new_tokens 48 --reward vader \\
        --engine vllm --output outputs/baselines/rollouts-others.jsonl
    python -m benchmarks.values.scale --stages train sample     a run that was stopped continues
    python -m benchmarks.values.scale --stages report

The first head, the evaluation prompts and the folder are those of benchmarks/baselines/table.py. The other prompts are
of the same kinds as those of evaluation, which the demo's are not. All have twelve responses.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from typing import Any, ClassVar

from benchmarks.baselines.baseline_sampler import ADVANTAGES, BaselineSampler
from benchmarks.models import load_policy
from benchmarks.paper.table import make_parser, sample_texts, settings_of
from benchmarks.pieces import Shown, compare_at, keep_figures, rows_of
from benchmarks.record import record, result_path
from benchmarks.tasks import TASKS
from benchmarks.values.rollout_models import rated, train_on_rollouts, train_on_rows

DIVERGENCES = (1.0, 1.2, 2.0, 4.0)  # best-of-8 has a bound of 1.2
_HEAD = {"reward_rows": "0", "strength": "beta {n:g}"}
PROMPTS = {"others_256": 256, "others_768": 768, "others": None}
SHOWN = {
    "policy": Shown("policy, sampled", "1", "0"),
    "advantages": Shown("the demo's 256 prompts", **_HEAD),
    "others_256": Shown("256 others", **_HEAD),
    "others_768": Shown("768 others", **_HEAD),
    "others": Shown("all others", **_HEAD),
}
HEADS = ("advantages", *PROMPTS)
PAIRS = tuple((name, "advantages") for name in PROMPTS)


class ScaleSampler(BaselineSampler):
    """Writes the missing pieces of the heads of one task and seed."""

    order: ClassVar[tuple[str, ...]] = ("policy", "advantages", *PROMPTS)

    def _others_256(self) -> None:
        self._sweep_head("others_256", "others_256", ADVANTAGES)

    def _others_768(self) -> None:
        self._sweep_head("others_768", "others_768", ADVANTAGES)

    def _others(self) -> None:
        self._sweep_head("others", "others", ADVANTAGES)


def train_heads(options: argparse.Namespace, task: str, seed: int) -> None:
    """Trains the heads that are missing, the first one included."""
    folder, num_layers = options.folder, options.num_layers[task]
    train_on_rollouts(folder, task, seed, ["advantages"], num_layers, {})
    _, tokenizer = load_policy()
    rows = rated(folder / "rollouts-others.jsonl", task)
    by_hash = sorted({_text(row) for row in rows}, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    for kind, count in PROMPTS.items():
        target = folder / f"{task}-{kind}-{seed}"
        if not target.exists():
            kept = set(by_hash[:count])
            own = [row for row in rows if _text(row) in kept]
            train_on_rows("advantage", target, tokenizer, own, seed=seed, num_layers=num_layers)


def _text(row: dict[str, Any]) -> str:
    return row["prompt"][-1]["content"]


def main() -> None:
    parser = make_parser(__doc__, "outputs/baselines", ScaleSampler.order)
    parser.set_defaults(seeds=[0])
    options = parser.parse_args()
    for seed in options.seeds:
        for task in options.tasks:
            if "train" in options.stages:
                train_heads(options, task, seed)
    if "sample" in options.stages:
        sample_texts(options, ScaleSampler)
    if "report" in options.stages:
        file = result_path("scale.jsonl", options.output)
        figures = keep_figures(options.folder, options.tasks, file, SHOWN)
        results = {}
        for task in options.tasks:
            notes = {name: options.folder / f"{task}-{name}-{options.seeds[0]}.json" for name in HEADS}
            results[task] = {
                "gold": TASKS[task].gold_name,
                "responses": {name: json.loads(note.read_text("utf-8"))["rows"] for name, note in notes.items()},
                "rows": rows_of(figures, task, SHOWN),
                "at equal divergence": compare_at(figures, task, DIVERGENCES, HEADS, PAIRS),
            }
        print(record("scale", settings_of(options), results, options.output))


if __name__ == "__main__":
    main()
