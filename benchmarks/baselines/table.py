"""The methods of the field on one budget: which raises the gold reward, judged by a second one too?

    python -m benchmarks.baselines.prompts FILES           the evaluation prompts
    python -m benchmarks.baselines.table --stages train sample     in parts: a run that was stopped continues
    python -m benchmarks.baselines.table --stages report

All models are trained on the same rated responses of the policy to the demo's training prompts, and strengths are
chosen on those prompts. The report adds the figures of finished pieces to results/baselines.jsonl, and is made from
that file, so that seeds can run on different days and machines.
"""

from __future__ import annotations

from typing import Any

from benchmarks.baselines.baseline_sampler import INSTRUCTIONS, BaselineSampler
from benchmarks.estimates import difference, estimate, mean_curve
from benchmarks.paper.table import make_parser, settings_of
from benchmarks.pieces import Shown, gold_at, keep_figures, rows_of
from benchmarks.record import RESULTS, record
from benchmarks.tasks import TASKS
from benchmarks.values.rollout_models import BASELINES, KINDS, ROLLOUTS, train_and_sample

FIGURES = RESULTS / "baselines.jsonl"
# Chosen by `benchmarks/values/trials.py`. The other models keep the settings of benchmarks/models.py.
SETTINGS = {kind: {"learning_rate": 3e-4} for kind in ("value", "rollouts", "rollouts_full")}
DIVERGENCES = (1.0, 2.0, 4.0, 8.0)
_TOKENWISE = {"strength": "{n:g}", "by_order": True}
SHOWN = {
    "policy": Shown("policy, sampled", "1", "0"),
    "prompted": Shown("an instruction", reward_rows="0", strength="{n:g}"),
    "pargs_rollouts": Shown("PARGS", **_TOKENWISE),
    "value_b0": Shown("value (Controlled Decoding)", **_TOKENWISE),
    "advantages": Shown("head of advantages", reward_rows="0", strength="beta {n:g}"),
    "head_rollouts": Shown("head of pairs", reward_rows="0", **_TOKENWISE),
    "args": Shown("ARGS", **_TOKENWISE),
    "genarm": Shown("GenARM", strength="{n:g}"),
    "dpo": Shown("DPO", reward_rows="0", strength="{n:g}"),
    "best_of_n_value": Shown("best-of-n by the value", "{n:g}", "0", True, "{n:g} rows"),
    "value_guided_best_of_n": Shown("best-of-n, guided by advantages", "{n:g}", "0", True, "{n:g} rows"),
    "value_blockwise": Shown("block-wise by the value", "{n:g}", "{n:g}", True, "{n:g} rows"),
    "value_guided_blockwise": Shown("block-wise, guided by advantages", "{n:g}", "{n:g}", True, "{n:g} rows"),
    "cards": Shown("CARDS", "1", "1", True, "target {n:+g} sd"),
}
CURVES = ("prompted", "advantages", "pargs_rollouts", "value_b0", "head_rollouts", "args", "genarm", "dpo")
FIRST = "advantages"  # how far the others are behind it is told


def at_equal_divergence(figures: list[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """Both gold rewards of the methods with a strength at given divergences, and how far each is behind the first."""
    found = []
    for kl in DIVERGENCES:
        for judge in ("gold", "second"):
            by_method = {method: gold_at(figures, task, method, kl, judge) for method in CURVES}
            row: dict[str, Any] = {"kl": kl, "judge": judge}
            for method, of_seed in by_method.items():
                if of_seed:
                    row[method] = estimate(mean_curve(of_seed.values()))
                    row[f"{method}: seeds"] = sorted(of_seed)
                if method != FIRST:
                    row |= difference(by_method[FIRST], of_seed, f"{FIRST} - {method}")
            found.append(row)
    return found


def main() -> None:
    parser = make_parser(__doc__, "outputs/baselines", BaselineSampler.order)
    kinds = [*KINDS, *BASELINES]
    parser.set_defaults(divergences=[1.0, 3.0, 9.0])
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="models to train")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    train_and_sample(options, options.kinds, BaselineSampler, SETTINGS)
    if "report" in options.stages:
        figures = keep_figures(options.folder, options.tasks, FIGURES, SHOWN, texts=True)
        results = {
            task: {
                "gold": TASKS[task].gold_name,
                "second": TASKS[task].second_name,
                "instruction": INSTRUCTIONS[task],
                "rows": rows_of(figures, task, SHOWN),
                "at equal divergence": at_equal_divergence(figures, task),
            }
            for task in options.tasks
        }
        used = settings_of(options)
        print(record("baselines", used | {"rollouts": ROLLOUTS, "settings": SETTINGS}, results, options.output))


if __name__ == "__main__":
    main()
