"""The methods of the field on one budget: which raises the gold reward, judged by a second one too?

    python -m benchmarks.baselines.prompts FILES           the evaluation prompts
    python -m benchmarks.baselines.table --stages train sample     in parts: a run that was stopped continues
    python -m benchmarks.baselines.table --stages report

All models are trained on the same rated responses of the policy to the demo's training prompts, and strengths are
chosen on those prompts. The report adds the figures of finished pieces to results/baselines.jsonl, and is made from
that file, so that seeds can run on different days and machines. It writes its tables into docs/results.md.
"""

from __future__ import annotations

from benchmarks.baselines.baseline_sampler import CARDS_EVERY, INSTRUCTIONS, ROWS, BaselineSampler
from benchmarks.baselines.page import write_page
from benchmarks.paper.table import make_parser, settings_of
from benchmarks.pieces import Shown, compare_at, keep_figures, rows_of
from benchmarks.record import record, result_path
from benchmarks.tasks import TASKS
from benchmarks.values.rollout_models import BASELINES, KINDS, ROLLOUTS, train_and_sample

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
    "value_particles": Shown("particles by the value", f"{ROWS}", f"{ROWS}", True, f"{ROWS} rows, beta {{n:g}}"),
    "cards": Shown(f"CARDS (every {CARDS_EVERY}th prompt)", "1", "1", True, "target {n:+g} sd"),
}
CURVES = ("prompted", "advantages", "pargs_rollouts", "value_b0", "head_rollouts", "args", "genarm", "dpo")
JUDGES = ("gold", "second")
FIRST = "pargs_rollouts"  # how far the others are ahead of it is told


def main() -> None:
    parser = make_parser(__doc__, "outputs/baselines", BaselineSampler.order)
    kinds = [*KINDS, *BASELINES]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="models to train")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    train_and_sample(options, options.kinds, BaselineSampler, SETTINGS)
    if "report" in options.stages:
        file = result_path("baselines.jsonl", options.output)
        figures = keep_figures(options.folder, options.tasks, file, SHOWN, texts=True)
        pairs = [(method, FIRST) for method in CURVES if method != FIRST]
        results = {
            task: {
                "gold": TASKS[task].gold_name,
                "second": TASKS[task].second_name,
                "instruction": INSTRUCTIONS[task],
                "rows": rows_of(figures, task, SHOWN),
                "at equal divergence": compare_at(figures, task, DIVERGENCES, CURVES, pairs, JUDGES),
            }
            for task in options.tasks
        }
        used = settings_of(options)
        print(record("baselines", used | {"rollouts": ROLLOUTS, "settings": SETTINGS}, results, options.output))
        if options.output is None:
            write_page(results, FIRST)


if __name__ == "__main__":
    main()
