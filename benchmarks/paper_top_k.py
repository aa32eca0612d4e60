"""Does it matter among how many candidates steering chooses? PARGS and ARGS for several k, at equal divergence.

    python benchmarks/paper_top_k.py --folder outputs/paper_table --tasks plain --seeds 0 --top_k 5 20 40
    python benchmarks/paper_top_k.py --folder outputs/paper_table --report

Models are those that paper_table.py trained into the folder, and k=10 is what it sampled. A policy of more candidates
is another policy: gains and divergences are against the policy of the same k.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from paper_data import TASKS
from paper_report import curve, difference, estimate, load, mean_curve, plain_gold
from paper_sample import Sampler
from paper_table import commit
from record import record
from transformers.utils import logging

METHODS = ("pargs", "args")
TARGETS = [0.5, 1.0, 2.0, 3.0, 5.0]  # nats per response
CUSTOMARY = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("outputs/paper_table"), help="of paper_table.py")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--top_k", type=int, nargs="+", default=[5, 20, 40])
    parser.add_argument("--divergences", type=float, nargs="+", default=[1.5, 6.0], help="nats to steer to")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    logging.set_verbosity_error()
    if options.report:
        report(options)
        return
    settings = {"prompts": None, "pilot_prompts": 24, "draws": 1, "max_new_tokens": 48, "dtype": "float32"}
    settings["divergences"] = options.divergences
    for task in options.tasks:
        for seed in options.seeds:
            for top_k in options.top_k:
                folder = with_models_of(options.folder, top_k)
                Sampler(folder, task, seed, settings | {"top_k": top_k}, commit()).run(["policy", *METHODS])


def with_models_of(folder: Path, top_k: int) -> Path:
    """A folder for the pieces of one k, beside the same models."""
    own = folder / f"top_k_{top_k}"
    own.mkdir(exist_ok=True)
    for model in folder.iterdir():
        if (model / "config.json").exists() and not (own / model.name).exists():
            (own / model.name).symlink_to(model.resolve())
    return own


def report(options: argparse.Namespace) -> None:
    """Gains at equal divergence, by task, k and method, over the seeds that were asked for."""
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
                        seed: [value - unsteered for value, unsteered in zip(gold, base, strict=True)]
                        for seed, gold in curves.items()
                        if gold is not None
                    }
                    if gains[method]:
                        at[method] = estimate(mean_curve(gains[method].values()))
                row[f"{target:g} nats"] = at | difference(gains["pargs"], gains["args"], "pargs - args")
            results.setdefault(task, []).append(row)
            print(task, row)
    print(record("paper_top_k", {"seeds": options.seeds, "top_k": [CUSTOMARY, *options.top_k]}, results))


if __name__ == "__main__":
    main()
