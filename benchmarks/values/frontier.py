"""Values or rewards of pairs? Both trained on the same responses of the policy, guiding by tokens and in searches.

    python -m benchmarks.values.frontier --stages train sample     hours on two cores; a run that was stopped continues
    python -m benchmarks.values.frontier --stages report

The tasks, prompts and seeds are those of benchmarks/paper/table.py. The report adds the figures of finished pieces to
results/values.jsonl and is made from that file, so that seeds can run on different days and machines.
"""

from __future__ import annotations

from benchmarks.paper.table import make_parser, settings_of
from benchmarks.pieces import Shown, compare_at, keep_figures, rows_of
from benchmarks.record import record, result_path
from benchmarks.tasks import TASKS
from benchmarks.values.rollout_models import KINDS, ROLLOUTS, train_and_sample
from benchmarks.values.value_sampler import HALVED, ValueSampler

COMPARED = ("value_b0", "value_b4", "value_b16", "head_rollouts", "pargs_rollouts")
DIVERGENCES = (0.5, 1.0, 1.2, 2.0, 3.0, 5.0, 8.0)  # 1.2 is the bound of best-of-8
_TOKENWISE = {"strength": "strength {n:g}", "by_order": True}
SHOWN = {
    "policy": Shown("policy, sampled", "1", "0"),
    "value_b0": Shown("value, mean", **_TOKENWISE),
    "value_b4": Shown("value, b = 4 / range", **_TOKENWISE),
    "value_b16": Shown("value, b = 16 / range", **_TOKENWISE),
    "value_exact": Shown("value, b = strength", **_TOKENWISE),
    "pargs_rollouts": Shown("PARGS on the same rollouts", **_TOKENWISE),
    "head_rollouts": Shown("steering head on the same rollouts", reward_rows="0", **_TOKENWISE),
    "best_of_n_value": Shown("best-of-n by the value", "{n:g}", "0", True, "{n:g} rows"),
    "best_of_n_rollouts": Shown("best-of-n by PARGS", "{n:g}", "0", True, "{n:g} rows"),
    "value_blockwise": Shown("block-wise by the value", "{n:g}", "{n:g}", True, "{n:g} rows"),
    "rollouts_blockwise": Shown("block-wise by PARGS", "{n:g}", "{n:g}", True, "{n:g} rows"),
    "value_guided_blockwise": Shown("block-wise, guided by the head", "{n:g}", "{n:g}", True, "{n:g} rows"),
    "value_halving": Shown("halving by the value", f"{HALVED}", f"{HALVED}", True, "from {n:g} rows"),
    "rollouts_halving": Shown("halving by PARGS", f"{HALVED}", f"{HALVED}", True, "from {n:g} rows"),
}


def main() -> None:
    parser = make_parser(__doc__, "outputs/values", ValueSampler.order)
    parser.set_defaults(divergences=[0.5, 1.5, 4.0, 9.0])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    train_and_sample(options, list(KINDS), ValueSampler)
    if "report" in options.stages:
        file = result_path("values.jsonl", options.output)
        figures = keep_figures(options.folder, options.tasks, file, SHOWN)
        pairs = [(method, COMPARED[-1]) for method in COMPARED[:-1]]
        results = {
            task: {
                "gold": TASKS[task].gold_name,
                "rows": rows_of(figures, task, SHOWN),
                "at equal divergence": compare_at(figures, task, DIVERGENCES, COMPARED, pairs),
            }
            for task in options.tasks
        }
        used = settings_of(options)
        print(record("values", used | {"rollouts": ROLLOUTS}, results, options.output))


if __name__ == "__main__":
    main()
