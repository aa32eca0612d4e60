"""What do the methods of table.py cost? Tokens per second beside the policy's, from short runs with nothing else.

    OMP_NUM_THREADS=1 python -m benchmarks.baselines.speed      two hours, after the models are trained

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
from benchmarks.paper.table import make_parser, sample_texts, settings_of
from benchmarks.record import record

# CARDS is written without caches, as its authors' code runs, so its time would say nothing.
METHODS = tuple(method for method in BaselineSampler.order if method != "cards")


def sampled_once(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every method samples once for each task, with the models of the folder."""
    with tempfile.TemporaryDirectory() as place:
        own = Path(place)
        for shared in (path for path in options.folder.iterdir() if path.name != "samples"):
            (own / shared.name).symlink_to(shared.resolve())
        sample_texts(argparse.Namespace(**vars(options) | {"folder": own}), BaselineSampler)
        return [
            {"task": file.name.split("-")[0]} | json.loads(file.read_text(encoding="utf-8"))
            for file in sorted((own / "samples").glob("*.json"))
        ]


def speeds(rounds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Tokens per second of each task, method and strength, and the ratio to the policy's of the same round.

    The policy writes the same for all tasks.
    """
    found: dict[tuple[str, str, float], list[tuple[float, float]]] = defaultdict(list)
    for pieces in rounds:
        plain = median(piece["tokens"] / piece["seconds"] for piece in pieces if piece["method"] == "policy")
        for piece in pieces:
            speed = piece["tokens"] / piece["seconds"]
            strength = 0.0 if piece["method"] == "policy" else piece["strength"]
            found[piece["task"], piece["method"], strength].append((speed, speed / plain))
    return [
        {
            "task": task,
            "method": method,
            "strength": strength,
            "tokens_per_s": median(speed for speed, _ in of_method),
            "of the policy's": median(ratio for _, ratio in of_method),
        }
        for (task, method, strength), of_method in found.items()
    ]


def main() -> None:
    parser = make_parser(__doc__, "outputs/baselines", METHODS)
    parser.set_defaults(seeds=[0], prompts=32)
    parser.add_argument("--rounds", type=int, default=3, help="times that every method samples; the median counts")
    options = parser.parse_args()
    results = speeds([sampled_once(options) for _ in range(options.rounds)])
    print(record("baselines_speed", settings_of(options) | {"device": DEVICE}, results, options.output))


if __name__ == "__main__":
    main()
