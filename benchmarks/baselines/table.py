"""The methods of the field on one budget: which raises the gold reward, judged by a second one too?

    python -m benchmarks.baselines.prompts FILES           the evaluation prompts
    python -m benchmarks.baselines.table --stages train sample     in parts: a run that was stopped continues
    python -m benchmarks.baselines.table --stages report

All models are trained on the same rated responses of the policy to the demo's training prompts, and strengths are
chosen on those prompts. The report adds the figures of finished pieces to results/baselines.jsonl and is made from
that file, so that seeds can run on different days and machines.
"""

from __future__ import annotations

from benchmarks.baselines.baseline_sampler import BaselineSampler
from benchmarks.paper.table import make_parser, sample_texts
from benchmarks.values.rollout_models import BASELINES, KINDS, train_on_rollouts


def main() -> None:
    parser = make_parser(__doc__, "outputs/baselines", BaselineSampler.order)
    kinds = [*KINDS, *BASELINES]
    parser.set_defaults(divergences=[1.0, 3.0, 9.0])
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="models to train")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if "train" in options.stages:
        for seed in options.seeds:
            for task in options.tasks:
                train_on_rollouts(options.folder, task, seed, options.kinds, options.num_layers[task])
    if "sample" in options.stages:
        sample_texts(options, BaselineSampler)


if __name__ == "__main__":
    main()
