"""Does a reward model trained on prefixes rank better than one trained on whole responses, for the same budget?

    python -m benchmarks.training.accuracy --model NAME --num_layers 10 --data demo
    python -m benchmarks.training.accuracy --model NAME --num_layers 10 --train pairs.jsonl --test held_out.jsonl

Both models start alike and see the same pairs in the same order with the same settings. Only the loss differs: all
prefixes, or whole responses. Accuracy is measured on held-out pairs, at the full response and at each tenth of it.
Its standard error is over pairs within a seed, and over seeds for the means.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars, load_dataset
from transformers import AutoTokenizer

from benchmarks.models import QUIET, ids_dataset
from benchmarks.record import record
from benchmarks.tasks import training_pairs
from rgtg_hf import PrefixRewardConfig, PrefixRewardTrainer

# At so large a stride, only the last prefix of a pair is left: the whole response.
METHODS: dict[str, dict[str, Any]] = {
    "prefix": {"prefixes": "all"},
    "full_sequence": {"prefixes": "stride", "prefix_stride": 10**9},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the checkpoint to start from")
    parser.add_argument("--num_layers", type=int, help="its first layers only")
    parser.add_argument("--data", choices=["demo"], help="the demo's pairs, a fifth of the prompts held out")
    parser.add_argument("--train", type=Path, help="training pairs, a JSON-lines file")
    parser.add_argument("--test", type=Path, help="held-out pairs, a JSON-lines file")
    parser.add_argument("--train_pairs", type=int, help="use only this many")
    parser.add_argument("--test_pairs", type=int, help="use only this many")
    parser.add_argument("--max_length", type=int, default=512, help="longer pairs are dropped")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--name", help="of the result file (default: from the data)")
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    args = parser.parse_args()
    if (args.data is None) == (args.train is None or args.test is None):
        parser.error("give --data demo, or both --train and --test")
    disable_progress_bars()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    runs = []
    for seed in args.seeds:
        train, test = load(args, tokenizer, seed)
        for method in METHODS:
            run = {"method": method, "seed": seed} | train_and_evaluate(args, method, seed, tokenizer, train, test)
            print({key: value for key, value in run.items() if key != "curve"}, flush=True)
            runs.append(run)
    results = {"summary": summarize(runs), "runs": runs}
    for row in results["summary"]:
        print(row)
    settings = vars(args) | {"model": Path(args.model).name}
    del settings["output"]
    name = args.name or f"accuracy_{args.data or args.train.name.split('.')[0]}"
    print(record(name, settings, results, args.output))


def load(args: argparse.Namespace, tokenizer: Any, seed: int) -> tuple[Dataset, Dataset]:
    if args.data == "demo":
        train, test = demo_pairs(tokenizer)
    else:
        train, test = (load_dataset("json", data_files=str(path), split="train") for path in (args.train, args.test))
    train = train.shuffle(seed=seed)
    # Every seed is judged on the same pairs.
    test = test.shuffle(seed=0)
    return (
        train.select(range(min(len(train), args.train_pairs or len(train)))),
        test.select(range(min(len(test), args.test_pairs or len(test)))),
    )


def demo_pairs(tokenizer: Any) -> tuple[Dataset, Dataset]:
    """The demo's pairs, tokenized as in the demo. Every fifth prompt is held out."""
    rows = training_pairs("sentiment", tokenizer, Path())
    held_out = set(sorted({row["prompt"][0]["content"] for row in rows})[::5])
    split: dict[bool, list] = {False: [], True: []}
    for row in rows:
        split[row["prompt"][0]["content"] in held_out].append(row)
    columns = ("chosen_ids", "rejected_ids", "prompt_length")
    return ids_dataset(split[False], *columns), ids_dataset(split[True], *columns)


def train_and_evaluate(
    args: argparse.Namespace, method: str, seed: int, tokenizer: Any, train: Dataset, test: Dataset
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = PrefixRewardConfig(
            folder,
            num_layers=args.num_layers,
            max_length=args.max_length,
            num_train_epochs=1,
            per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            seed=seed,
            gradient_checkpointing=False,
            **QUIET,
            **METHODS[method],
        )
        trainer = PrefixRewardTrainer(
            args.model, config, train_dataset=train, eval_dataset=test, processing_class=tokenizer
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        metrics = trainer.evaluate()
        curve = trainer.curves["eval"]
    return {
        "train_pairs": len(trainer.train_dataset),
        "test_pairs": curve["pairs"],
        "train_seconds": round(seconds, 1),
        "accuracy_at_100": metrics["eval_accuracy_at_100"],
        "accuracy_all_prefixes": metrics["eval_accuracy"],
        "curve": curve,
    }


def summarize(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_method = {method: [run for run in runs if run["method"] == method] for method in METHODS}
    rows = []
    for figure in ("accuracy_at_100", "accuracy_all_prefixes"):
        values = {method: [run[figure] for run in of_method] for method, of_method in by_method.items()}
        difference = [a - b for a, b in zip(values["prefix"], values["full_sequence"], strict=True)]
        for name, numbers in (values | {"difference": difference}).items():
            error = statistics.stdev(numbers) / len(numbers) ** 0.5 if len(numbers) > 1 else None
            rows.append({"figure": figure, "method": name, "mean": statistics.mean(numbers), "se_over_seeds": error})
    return rows


if __name__ == "__main__":
    main()
