"""Which method when? Guidance by tokens, heads, searches and fine-tuning with the same preference pairs.

    python -m benchmarks.search.which --stages train sample     hours on two cores; a run that was stopped continues
    python -m benchmarks.search.which --stages report

The report adds the figures of finished pieces to results/which_method.jsonl and is made from that file, so that seeds
can run on different days and machines. The default is the sentiment task of benchmarks/paper/table.py, its prompts
and models. its-hub's particle filtering is one of the methods if its-hub is installed.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.frontier_picture import draw_frontier
from benchmarks.models import TRAINING
from benchmarks.paper.table import add_training_options, make_parser, sample_texts, settings_of, train_models
from benchmarks.pieces import Shown, keep_figures, rows_of
from benchmarks.record import ROOT, record, result_path
from benchmarks.search.search_sampler import BLOCK_SIZE, HEAD_BETA, PARTICLES, SearchSampler
from benchmarks.tasks import TASKS

SHOWN = {
    "policy": Shown("policy, sampled", "1", "0"),
    "head": Shown("steering head", "1", "0", strength="beta {n:g}"),
    "pargs": Shown("PARGS", strength="beta {n:g}", by_order=True),
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


def report(figures: list[dict[str, Any]], task: str, pictures: Path) -> dict[str, Any]:
    """The row of each method and strength, over the seeds that are there, and a picture."""
    rows = rows_of(figures, task, SHOWN)
    _draw(rows, task, pictures)
    return {"gold": TASKS[task].gold_name, "rows": rows}


def _draw(rows: list[dict[str, Any]], task: str, pictures: Path) -> None:
    policy = next(row for row in rows if row["method"] == "policy")
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["method"] != "policy" and row["kl"] == row["kl"]:
            guided = row["method"].startswith("guided")
            by_name["searches guided by the head" if guided else row["name"]].append(row)
    draw_frontier(by_name, pictures / f"which_method_{task}.svg", gold=TASKS[task].gold_name, policy=policy)


def main() -> None:
    parser = make_parser(__doc__, "outputs/which", SearchSampler.order)
    parser.set_defaults(tasks=["sentiment"])
    add_training_options(parser, ("prefix", "head", "dpo"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if "train" in options.stages:
        train_models(options)
    if "sample" in options.stages:
        sample_texts(options, SearchSampler)
    if "report" in options.stages:
        pictures = options.output or ROOT / "docs" / "assets"
        used = settings_of(options)
        used |= {"block_size": BLOCK_SIZE, "beta of the head that guides": HEAD_BETA, "training": TRAINING}
        pictures.mkdir(parents=True, exist_ok=True)
        file = result_path("which_method.jsonl", options.output)
        figures = keep_figures(options.folder, options.tasks, file, SHOWN)
        results = {task: report(figures, task, pictures) for task in options.tasks}
        print(record("which_method", used, results, options.output))


if __name__ == "__main__":
    main()
