"""Does the number of candidates matter? PARGS and ARGS with several k, at equal divergence.

    python -m benchmarks.paper.top_k --folder outputs/paper_table --tasks plain --seeds 0 --top_k 5 20 40
    python -m benchmarks.paper.top_k --folder outputs/paper_table --report

table.py trains the models into the folder, and samples k=10. A policy with more candidates is another policy, so gains
and divergences are measured from the policy with the same k.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.estimates import difference, estimate, mean_curve
from benchmarks.paper.report import curve, load, plain_gold
from benchmarks.paper.sample import Sampler
from benchmarks.record import commit, record
from benchmarks.tasks import TASKS

METHODS = ("pargs", "args")
TARGETS = [0.5, 1.0, 2.0, 3.0, 5.0]  # nats per response
CUSTOMARY = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/paper_table"), help="the folder of table.py")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--top_k", type=int, nargs="+", default=[5, 20, 40])
    parser.add_argument("--divergences", type=float, nargs="+", default=[1.5, 6.0], help="target nats per response")
    parser.add_argument("--prompts", type=int, help="held-out prompts, of 104 (default: all)")
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if options.report:
        report(options)
        return
    settings = {"prompts": options.prompts, "pilot_prompts": 24, "draws": 1, "max_new_tokens": 48, "dtype": "float32"}
    settings["divergences"] = options.divergences
    for task in options.tasks:
        for seed in options.seeds:
            for top_k in options.top_k:
                folder = with_models_of(options.folder, top_k)
                Sampler(folder, task, seed, settings | {"top_k": top_k}, commit()).run(["policy", *METHODS])


def with_models_of(folder: Path, top_k: int) -> Path:
    """A folder for the pieces of one k, with links to the same models."""
    own = folder / f"top_k_{top_k}"
    own.mkdir(exist_ok=True)
    for model in folder.iterdir():
        if (model / "config.json").exists() and not (own / model.name).exists():
            (own / model.name).symlink_to(model.resolve())
    return own


def report(options: argparse.Namespace) -> None:
    """Gains at equal divergence by task, k and method, over the given seeds."""
    results: dict[str, list[dict[str, Any]]] = {}
    for task in options.tasks:
        for top_k in sorted([CUSTOMARY, *options.top_k]):
            folder = options.folder if top_k == CUSTOMARY else options.folder / f"top_k_{top_k}"
            runs = load(folder, task)
            plain = {seed: runs["policy"][seed][0][1] for seed in options.seeds}
            base = plain_gold(plain)
            row: dict[str, Any] = {"top_k": top_k, "policy": estimate(base)}
            for target in TARGETS:
                at: dict[str, Any] = {}
                gains: dict[str, dict[int, list[float]]] = {}
                for method in METHODS:
                    curves = {seed: curve(runs, plain, method, seed, target) for seed in options.seeds}
                    gains[method] = {
                        seed: [value - unguided for value, unguided in zip(gold, base, strict=True)]
                        for seed, gold in curves.items()
                        if gold is not None
                    }
                    if gains[method]:
                        at[method] = estimate(mean_curve(gains[method].values()))
                row[f"{target:g} nats"] = at | difference(gains["pargs"], gains["args"], "pargs - args")
            results.setdefault(task, []).append(row)
            print(task, row)
    print(
        record("paper_top_k", {"seeds": options.seeds, "top_k": [CUSTOMARY, *options.top_k]}, results, options.output)
    )


if __name__ == "__main__":
    main()
