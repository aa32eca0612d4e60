"""Does it matter among how many candidates steering chooses? PARGS and ARGS for several k, at equal divergence.

    python benchmarks/paper_top_k.py --folder outputs/paper_table --tasks plain --seeds 0 --top_k 5 20 40
    python benchmarks/paper_top_k.py --folder outputs/paper_table --report

Models are those that paper_table.py trained into the folder, and k=10 is what it sampled. A policy of more candidates
is another policy: gains and divergences are against the policy of the same k.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from paper_data import TASKS
from paper_sample import Sampler
from paper_table import commit
from record import record
from transformers.utils import logging

from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence
from rgtg_hf.evaluation.statistics import bootstrap_interval, mean_with_error

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
    """Gains at equal divergence, by task, k and method, over the seeds that every k has."""
    results: dict[str, list[dict[str, Any]]] = {}
    for task in options.tasks:
        for top_k in sorted([CUSTOMARY, *options.top_k]):
            folder = options.folder if top_k == CUSTOMARY else options.folder / f"top_k_{top_k}"
            gains = {method: gains_of(folder, task, method, options.seeds) for method in METHODS}
            policy = [gold for seed in options.seeds for gold in gold_of(folder, task, "policy", seed)[0][1]]
            row: dict[str, Any] = {"top_k": top_k, "policy": list(mean_with_error(policy))}
            for target in TARGETS:
                curves = {method: found for method in METHODS if (found := gains[method](target))}
                row[f"{target:g} nats"] = {method: list(mean_with_error(curve)) for method, curve in curves.items()}
                if len(curves) == 2:
                    differences = [a - b for a, b in zip(curves["pargs"], curves["args"], strict=True)]
                    row[f"{target:g} nats"]["pargs - args: 95 %"] = list(bootstrap_interval(differences))
            results.setdefault(task, []).append(row)
            print(task, row)
    print(record("paper_top_k", {"seeds": options.seeds, "top_k": [CUSTOMARY, *options.top_k]}, results))


def gold_of(folder: Path, task: str, method: str, seed: int) -> list[tuple[float, list[float]]]:
    """Divergence and gold per prompt of each strength that was sampled."""
    prefix = "any" if method == "policy" else task
    found = []
    for file in sorted((folder / "samples").glob(f"{prefix}-{method}-{seed}-*.json")):
        piece = json.loads(file.read_text(encoding="utf-8"))
        found.append((fmean(piece["divergences"]), TASKS[task].gold(piece["texts"])))
    return found


def gains_of(folder: Path, task: str, method: str, seeds: list[int]) -> Any:
    """A function from a divergence to the gain per prompt there, mean over seeds."""
    by_seed = []
    for seed in seeds:
        plain = gold_of(folder, task, "policy", seed)[0][1]
        points = [FrontierPoint(0.0, plain), *(FrontierPoint(*pair) for pair in gold_of(folder, task, method, seed))]
        by_seed.append((plain, points))

    def at(target: float) -> list[float] | None:
        curves = [(plain, at_divergence(points, target)) for plain, points in by_seed]
        if any(gold is None for _, gold in curves):
            return None
        gains = [[value - base for base, value in zip(plain, gold, strict=True)] for plain, gold in curves]
        return [fmean(values) for values in zip(*gains, strict=True)]

    return at


if __name__ == "__main__":
    main()
