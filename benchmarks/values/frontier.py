"""Values or rewards of pairs? Both trained on the same responses of the policy, guiding by tokens and in searches.

    python -m benchmarks.values.frontier --stages train sample     hours on two cores; a run that was stopped continues

The tasks, prompts and seeds are those of benchmarks/paper/table.py.
"""

from __future__ import annotations

from benchmarks.paper.table import make_parser, sample_texts
from benchmarks.values.rollout_models import KINDS, train_on_rollouts
from benchmarks.values.value_sampler import ValueSampler


def main() -> None:
    parser = make_parser(__doc__, "outputs/values", ValueSampler.order)
    parser.set_defaults(divergences=[0.5, 1.5, 4.0, 9.0])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if "train" in options.stages:
        for seed in options.seeds:
            for task in options.tasks:
                train_on_rollouts(options.folder, task, seed, list(KINDS), options.num_layers[task])
    if "sample" in options.stages:
        sample_texts(options, ValueSampler)


if __name__ == "__main__":
    main()
