"""What do the methods of table.py cost? Tokens per second beside the policy's, from short runs with nothing else.

    OMP_NUM_THREADS=1 python -m benchmarks.baselines.speed      three quarters of an hour, after the models are trained

The times of table.py itself come from runs of hours, beside which other work ran.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.baselines.baseline_sampler import BaselineSampler
from benchmarks.models import DEVICE
from benchmarks.record import record
from benchmarks.tasks import TASKS

SETTINGS: dict[str, Any] = {
    **{"top_k": 10, "max_new_tokens": 48, "prompts": 32, "pilot_prompts": 24, "draws": 8},
    **{"divergences": [1.0, 3.0, 9.0], "dtype": "float32"},
}
# CARDS is written without caches, as its authors' code runs, so its time would say nothing.
METHODS = tuple(method for method in BaselineSampler.order if method != "cards")


def sampled_once(folder: Path, task: str, seed: int) -> list[dict[str, Any]]:
    """Every method of `METHODS` samples once, with the models of `folder`, the policy first."""
    with tempfile.TemporaryDirectory() as place:
        own = Path(place)
        for shared in [folder / "prompts.jsonl", folder / "pilots", *folder.glob(f"{task}-*-{seed}")]:
            (own / shared.name).symlink_to(shared.resolve())
        BaselineSampler(own, task, seed, SETTINGS, None).run(METHODS)
        return [json.loads(file.read_text(encoding="utf-8")) for file in sorted((own / "samples").glob("*.json"))]


def speeds(rounds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Tokens per second of each method and strength, and the ratio to the policy's of the same round."""
    found: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    for pieces in rounds:
        plain = median(piece["tokens"] / piece["seconds"] for piece in pieces if piece["method"] == "policy")
        for piece in pieces:
            speed = piece["tokens"] / piece["seconds"]
            found[piece["method"], 0.0 if piece["method"] == "policy" else piece["strength"]].append(
                (speed, speed / plain)
            )
    return [
        {
            "method": method,
            "strength": strength,
            "tokens_per_s": median(speed for speed, _ in of_method),
            "of the policy's": median(ratio for _, ratio in of_method),
        }
        for (method, strength), of_method in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("--folder", type=Path, default=Path("outputs/baselines"), help="of the models, as table.py leaves it")
    add("--task", choices=TASKS, default="sentiment", help="whose models run; those of others cost the same")
    add("--seed", type=int, default=0, help="of the models")
    add("--rounds", type=int, default=3, help="times that every method samples; the median counts")
    add("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    options = parser.parse_args()
    results = speeds([sampled_once(options.folder, options.task, options.seed) for _ in range(options.rounds)])
    used = {"device": DEVICE, "task": options.task, "rounds": options.rounds}
    print(record("baselines_speed", SETTINGS | used, results, options.output))


if __name__ == "__main__":
    main()
