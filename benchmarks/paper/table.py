"""The paper's comparison on a real model: which method raises the gold reward, at what divergence and what price?

    python -m benchmarks.paper.table --quick              less than a quarter of an hour on two cores
    python -m benchmarks.paper.table                      the full run
    python -m benchmarks.paper.table --tasks plain --seeds 1 --stages train sample     one part of a full run

Every finished piece is a file of its own in the folder, so a run that was stopped can continue, and several processes
can share the work. Training pairs and pilot prompts have no held-out prompt among them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import KINDS, TRAINING, load_policy, train
from benchmarks.paper.report import report_task
from benchmarks.paper.sample import METHODS, Sampler
from benchmarks.record import ROOT, commit, record
from benchmarks.tasks import TASKS, training_pairs
from rgtg_hf.files import write_whole

STAGES = ("train", "sample", "report")
# The defaults of --quick. They show that everything works, and measure nothing.
QUICK: dict[str, Any] = {
    "folder": Path("outputs/paper_table_quick"),
    "output": Path("outputs/paper_table_quick"),
    "seeds": [0],
    "num_layers": {"sentiment": 4, "plain": 4},
    "max_steps": 5,
    "training_prompts": 32,
    "prompts": 16,
    "draws": 4,
    "divergences": [1.0, 5.0],
    "max_new_tokens": 24,
    "pilot_prompts": 8,
}


def train_models(options: argparse.Namespace) -> None:
    _, tokenizer = load_policy()
    for seed in options.seeds:
        for task in options.tasks:
            rows = training_pairs(task, tokenizer, options.folder, options.training_prompts)
            for kind in options.models:
                target = options.folder / f"{task}-{kind}-{seed}"
                note = target.with_suffix(".json")
                if target.exists():
                    continue
                settings = {"num_layers": options.num_layers[task], "max_steps": options.max_steps}
                seconds = train(kind, target, tokenizer, rows, seed=seed, **settings)
                notes = {"pairs": len(rows), "seconds": round(seconds, 1), "commit": commit(), **settings}
                write_whole(note, json.dumps(notes))
                print(f"trained {target.name} in {seconds:.0f} s", flush=True)


def sample_texts(options: argparse.Namespace, sampler: type[Sampler] = Sampler) -> None:
    names = ("top_k", "max_new_tokens", "prompts", "pilot_prompts", "draws", "divergences", "dtype")
    settings = {name: getattr(options, name) for name in names}
    for seed in options.seeds:
        for task in options.tasks:
            sampler(options.folder, task, seed, settings, commit()).run(options.methods)


def write_report(options: argparse.Namespace) -> None:
    pictures = options.output or ROOT / "docs" / "assets"
    pictures.mkdir(parents=True, exist_ok=True)
    tasks = {task: result for task in options.tasks if (result := report_task(options.folder, task, pictures))}
    print(record("paper_table", settings_of(options) | {"training": TRAINING}, tasks, options.output))


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What a result depends on, for its record: all options but where things are and which part is run."""
    return {name: value for name, value in vars(options).items() if name not in ("folder", "output", "stages")}


def _layers(text: str) -> dict[str, int]:
    return {task: int(number) for task, number in (part.split("=") for part in text.split(","))}


def make_parser(description: str | None, folder: str, methods: Sequence[str]) -> argparse.ArgumentParser:
    """The options of a comparison, which has a folder of its own and may have other methods."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("--folder", type=Path, default=Path(folder), help="where finished pieces are kept")
    add("--output", type=Path, help="folder of the report (default: benchmarks/results, and docs/assets for pictures)")
    add("--stages", nargs="+", choices=STAGES, default=STAGES)
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training and sampling")
    add("--num_layers", type=_layers, default={"sentiment": 10, "plain": 4}, help="of reward models")
    add("--methods", nargs="+", choices=methods, default=list(methods), help="methods to sample")
    add("--prompts", type=int, help="held-out prompts, of 104 (default: all)")
    add("--pilot_prompts", type=int, default=24, help="training prompts for choosing betas")
    add("--draws", type=int, default=8, help="responses of the policy to each prompt, for best-of-n")
    add("--divergences", type=float, nargs="+", default=[1.0, 3.0, 9.0], help="target nats per response")
    add("--dtype", default="float32", help="of reward models while they score; training is in float32")
    add("--top_k", type=int, default=10, help="candidates per step")
    add("--max_new_tokens", type=int, default=48, help="tokens per response at most")
    return parser


def add_training_options(parser: argparse.ArgumentParser, models: Sequence[str] = KINDS) -> None:
    """The options of [`train_models`], for comparisons whose models are trained on the demo's pairs."""
    add: Any = parser.add_argument
    add("--models", nargs="+", choices=KINDS, default=list(models), help="models to train")
    add("--max_steps", type=int, default=-1, help="of training (default: all)")
    add("--training_prompts", type=int, help="prompts of the plain-language pairs, of 256 (default: all)")


def main() -> None:
    parser = make_parser(__doc__, "outputs/paper_table", METHODS)
    add_training_options(parser)
    parser.add_argument("--quick", action="store_true", help="small models, 16 prompts, one seed and a short training")
    options = parser.parse_args()
    if options.quick:
        for name, value in QUICK.items():
            if getattr(options, name) == parser.get_default(name):
                setattr(options, name, value)
    options.folder.mkdir(parents=True, exist_ok=True)
    if "train" in options.stages:
        train_models(options)
    if "sample" in options.stages:
        sample_texts(options)
    if "report" in options.stages:
        write_report(options)


if __name__ == "__main__":
    main()
