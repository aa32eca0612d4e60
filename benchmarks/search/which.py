"""Which method when? Guidance by tokens, heads, searches and fine-tuning with the same preference pairs.

    python -m benchmarks.search.which --stages train sample     hours on two cores; a run that was stopped continues
    python -m benchmarks.search.which --stages report

The report adds the figures of finished pieces to results/which_method.jsonl and is made from that file, so that seeds
can run on different days and machines. The default is the sentiment task of benchmarks/paper/table.py, its prompts
and models. its-hub's particle filtering is one of the methods if its-hub is installed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.estimates import estimate, mean_curve
from benchmarks.models import TRAINING
from benchmarks.paper.table import make_parser, sample_texts, train_models
from benchmarks.record import RESULTS, ROOT, record
from benchmarks.search.search_sampler import BLOCK_SIZE, HEAD_BETA, PARTICLES, SearchSampler
from benchmarks.tasks import TASKS
from rgtg_hf.cli.lines import json_lines
from rgtg_hf.evaluation.chart import Series, draw_series
from rgtg_hf.evaluation.statistics import bootstrap_interval
from rgtg_hf.files import write_whole

FIGURES = RESULTS / "which_method.jsonl"
_KEPT = ("method", "seed", "strength", "commit", "tokens", "seconds")


class Shown(NamedTuple):
    """How a method is shown. Texts have `{n}` where its strength stands.

    Attributes:
        name: Its name.
        policy_rows: Rows of a prompt in the policy's cache.
        reward_rows: Rows of a prompt in the reward model's cache.
        bound: Whether its divergence is an upper bound.
        strength: Its setting.
    """

    name: str
    policy_rows: str
    reward_rows: str
    bound: bool = False
    strength: str = ""


SHOWN = {
    "policy": Shown("policy, sampled", "1", "0"),
    "head": Shown("steering head", "1", "0", strength="beta {n:g}"),
    "pargs": Shown("PARGS", "1", "1", strength="beta {n:g}"),
    "best_of_n_prefix": Shown("best-of-n", "{n:g}", "0", True, "{n:g} rows"),
    "blockwise": Shown("block-wise best-of-n", "{n:g}", "{n:g}", True, "{n:g} rows"),
    "guided_blockwise": Shown("block-wise, guided by the head", "{n:g}", "{n:g}", True, "{n:g} rows"),
    "halving": Shown("halving", "{n:g}", "{n:g}", True, "from {n:g} rows"),
    "guided_halving": Shown("halving, guided by the head", "{n:g}", "{n:g}", True, "from {n:g} rows"),
    "particles": Shown("particles", f"{PARTICLES}", f"{PARTICLES}", True, f"{PARTICLES} rows, beta {{n:g}}"),
    "guided_particles": Shown(
        "particles, guided by the head", f"{PARTICLES}", f"{PARTICLES}", True, f"{PARTICLES} rows, beta {{n:g}}"
    ),
    "its_hub": Shown("its-hub, particle filtering", "0", "0", strength="{n:g} rows"),
    "dpo": Shown("DPO", "1", "0", strength="strength {n:g}"),
}


def keep_figures(folder: Path, tasks: Iterable[str], file: Path = FIGURES) -> list[dict[str, Any]]:
    """Adds the figures of the pieces in a folder to those kept before, and returns all, one for each piece.

    The texts of a piece are not kept. `gold` has a value for each prompt.
    """
    kept = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    figures = {_key(piece): piece for piece in kept}
    for task in tasks:
        for path in (folder / "samples").glob("*.json"):
            if path.name.startswith((f"{task}-", "any-")):  # the policy's own responses are for any task
                found = json.loads(path.read_text(encoding="utf-8"))
                piece = {"task": task} | {name: found[name] for name in _KEPT} | {"kl": fmean(found["divergences"])}
                piece["gold"] = [round(value, 4) for value in TASKS[task].gold(found["texts"])]
                figures.setdefault(_key(piece), piece)
    pieces = [figures[key] for key in sorted(figures)]
    write_whole(file, json_lines(pieces))
    return pieces


def _key(piece: dict[str, Any]) -> tuple[str, str, int, float]:
    return piece["task"], piece["method"], piece["seed"], piece["strength"]


def report(figures: list[dict[str, Any]], task: str, pictures: Path) -> dict[str, Any]:
    """The row of each method and strength, over the seeds that are there, and a picture."""
    runs: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for piece in figures:
        if piece["task"] == task:
            runs[piece["method"]][piece["seed"]].append(piece)
    plain = mean_curve(piece["gold"] for of_seed in runs["policy"].values() for piece in of_seed)
    rows = []
    for method, shown in SHOWN.items():
        by_strength: dict[float, dict[int, Any]] = defaultdict(dict)
        for seed, of_seed in runs.get(method, {}).items():
            for place, piece in enumerate(of_seed):
                # Draws of the policy, and betas of PARGS that differ between seeds, are told by their order.
                key = {"policy": 0.0, "pargs": float(place)}.get(method, piece["strength"])
                by_strength[key].setdefault(seed, []).append(piece)
        for of_strength in by_strength.values():
            found = [piece for pieces in of_strength.values() for piece in pieces]
            gold = mean_curve(piece["gold"] for piece in found)
            gain = [one - other for one, other in zip(gold, plain, strict=True)]
            n = round(fmean(piece["strength"] for piece in found), 2)
            rows.append(
                {
                    "method": method,
                    "name": shown.name,
                    "setting": "" if method == "policy" else shown.strength.format(n=n),
                    "seeds": sorted(of_strength),
                    "gold": estimate(gold),
                    "gain: 95 %": list(bootstrap_interval(gain)),
                    "gold by seed": [
                        fmean(fmean(piece["gold"]) for piece in pieces) for _, pieces in sorted(of_strength.items())
                    ],
                    "kl": fmean(piece["kl"] for piece in found),
                    "kl is a bound": shown.bound,
                    "tokens_per_s": sum(piece["tokens"] for piece in found) / sum(piece["seconds"] for piece in found),
                    "rows in the caches": [rows.format(n=n) for rows in (shown.policy_rows, shown.reward_rows)],
                }
            )
    _draw(rows, task, pictures)
    return {"gold": TASKS[task].gold_name, "rows": rows}


def _draw(rows: list[dict[str, Any]], task: str, pictures: Path) -> None:
    policy = next(row for row in rows if row["method"] == "policy")
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["method"] != "policy" and row["kl"] == row["kl"]:
            guided = row["method"].startswith("guided")
            by_name["searches guided by the head" if guided else row["name"]].append(row)
    series = []
    for name, own in by_name.items():
        bound = own[0]["kl is a bound"]
        points = own if bound else [policy, *own]
        series.append(
            Series(
                name + (" (KL: bound)" if bound else ""),
                [row["kl"] for row in points],
                [row["gold"][0] for row in points],
                [row["gold"][1] for row in points],
                line=not name.startswith("searches"),
                dashed=bound,
            )
        )
    draw_series(
        series,
        pictures / f"which_method_{task}.svg",
        title=f"Gold reward and divergence of each method, {task}",
        x_name="KL to the policy, nats per response",
        y_name=f"{TASKS[task].gold_name}, mean ± standard error",
    )


def main() -> None:
    parser = make_parser(__doc__, "outputs/which", SearchSampler.order)
    parser.set_defaults(tasks=["sentiment"], models=["prefix", "head", "dpo"])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if "train" in options.stages:
        train_models(options)
    if "sample" in options.stages:
        sample_texts(options, SearchSampler)
    if "report" in options.stages:
        pictures = options.output or ROOT / "docs" / "assets"
        used = {name: value for name, value in vars(options).items() if name not in ("folder", "output", "stages")}
        used |= {"block_size": BLOCK_SIZE, "beta of the head that guides": HEAD_BETA, "training": TRAINING}
        pictures.mkdir(parents=True, exist_ok=True)
        figures = keep_figures(options.folder, options.tasks)
        results = {task: report(figures, task, pictures) for task in options.tasks}
        print(record("which_method", used, results, options.output))


if __name__ == "__main__":
    main()
