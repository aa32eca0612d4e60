"""Which method steers better on real preferences, judged by a larger reward model that was trained separately?

    python -m benchmarks.paper.real_preferences train  --folder outputs/real --train train.jsonl
    python -m benchmarks.paper.real_preferences steer  --folder outputs/real --test test.jsonl --seeds 0 1 2
    python -m benchmarks.paper.real_preferences report --folder outputs/real

Pairs are rows with `prompt`, `chosen` and `rejected` as messages. The prompts of the training file are split into two
halves. One trains the reward models that steer: the policy's first layers, on all prefixes (PARGS) and on whole
responses (ARGS), with the same pairs and number of steps for each seed. The other trains the gold reward: all layers
of the policy, another seed, whole responses. `rgtg-hf evaluate` then steers and measures accuracy on the prompts and
pairs of the test file. Every finished piece is a folder of its own, so a run that was stopped can continue.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import datasets

from benchmarks.estimates import difference, estimate, mean_curve
from benchmarks.heads.slopes import fold_of
from benchmarks.models import load_policy, train
from benchmarks.record import record
from rgtg_hf.cli.demo.demo_policy import demo_policy_path
from rgtg_hf.cli.demo.demo_rows import tokenize_pair
from rgtg_hf.cli.evaluate import evaluate_command
from rgtg_hf.evaluation.accuracy import accuracy_by_fraction
from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence
from rgtg_hf.evaluation.statistics import mean_with_error
from rgtg_hf.training.models import load_for_training

METHODS = ("pargs", "args")
GOLD_SEED, GOLD_LONGEST = 100, 160
TARGETS = [0.5, 1.0, 2.0, 5.0, 10.0]  # nats per response
LONGEST = {"prompt": 96, "response": 160}  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["train", "steer", "report"])
    parser.add_argument("--folder", type=Path, default=Path("outputs/real_preferences"))
    parser.add_argument("--train", type=Path, help="training pairs, a JSON-lines file")
    parser.add_argument("--test", type=Path, help="pairs of other prompts, a JSON-lines file")
    parser.add_argument("--models", nargs="+", default=["gold", "prefix", "full"], help="models to train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the models that steer")
    parser.add_argument("--pairs", type=int, default=640, help="training pairs of each of them")
    parser.add_argument("--gold_pairs", type=int, default=1000, help="training pairs of the gold reward")
    parser.add_argument("--num_layers", type=int, default=10, help="of the models that steer")
    parser.add_argument("--prompts", type=int, default=104, help="prompts to steer")
    parser.add_argument("--test_pairs", type=int, default=200, help="pairs for accuracy")
    parser.add_argument("--betas", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--max_new_tokens", type=int, default=64)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    {"train": train_models, "steer": steer, "report": report}[options.stage](options)


def train_models(options: argparse.Namespace) -> None:
    _, tokenizer = load_policy()
    half = {"gold": [], "steer": []}
    for row in usable_rows(options.train, tokenizer):
        half["gold" if is_of_gold(row["prompt"]) else "steer"].append(row)
    if "gold" in options.models:
        # On short pairs, because the responses that it judges are short. bfloat16 is faster at its size.
        short = [row for row in half["gold"] if max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= GOLD_LONGEST]
        train_one(options, "gold", "full", short[: options.gold_pairs], GOLD_SEED, 30, tokenizer, bf16=True)
    for seed in options.seeds:
        for kind in ("prefix", "full"):
            if kind in options.models:
                rows = half["steer"][: options.pairs]
                train_one(options, f"{kind}-{seed}", kind, rows, seed, options.num_layers, tokenizer)


def train_one(
    options: argparse.Namespace,
    name: str,
    kind: str,
    rows: list[dict[str, Any]],
    seed: int,
    num_layers: int,
    tokenizer: Any,
    **settings: Any,
) -> None:
    folder = options.folder / name
    if folder.exists():
        return
    seconds = train(kind, folder, tokenizer, rows, seed=seed, num_layers=num_layers, **settings)
    tokenizer.save_pretrained(folder)
    notes = {"pairs": len(rows), "seed": seed, "num_layers": num_layers, "seconds": round(seconds), **settings}
    folder.with_suffix(".json").write_text(json.dumps(notes), encoding="utf-8")
    print(f"trained {name} on {len(rows)} pairs in {seconds:.0f} s", flush=True)


def steer(options: argparse.Namespace) -> None:
    """Evaluates as a user would: with files of prompts and pairs, and the folder of the gold reward."""
    _, tokenizer = load_policy()
    rows = usable_rows(options.test, tokenizer)[: options.test_pairs]
    prompts = short_prompts(options.test, tokenizer)[: options.prompts]
    prompts_file, pairs_file = options.folder / "prompts.jsonl", options.folder / "pairs.jsonl"
    prompts_file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    messages = [{column: row[column] for column in ("prompt", "chosen", "rejected")} for row in rows]
    pairs_file.write_text("".join(json.dumps(row) + "\n" for row in messages), encoding="utf-8")
    gold_accuracy = options.folder / "gold_accuracy.json"
    if not gold_accuracy.exists():
        gold = load_for_training(str(options.folder / "gold"), dtype="float32").eval()
        curves = {
            "all": accuracy_by_fraction(gold, rows),
            "of like length": accuracy_by_fraction(gold, rows, max_gap=0.1),
        }
        curves["longer is preferred"] = fmean(len(row["chosen_ids"]) > len(row["rejected_ids"]) for row in rows)
        gold_accuracy.write_text(json.dumps(curves), encoding="utf-8")
        print({name: curve["accuracy"][-1] for name, curve in curves.items() if isinstance(curve, dict)}, flush=True)
    for seed in options.seeds:
        command = {
            "model": demo_policy_path(),
            "reward_model": options.folder / f"prefix-{seed}",
            "full_reward_model": options.folder / f"full-{seed}",
            "gold": options.folder / "gold",
            "prompts": prompts_file,
            "pairs": pairs_file,
            "output": options.folder / f"evaluation-{seed}",
            "max_new_tokens": options.max_new_tokens,
            "batch_size": len(prompts),
            "dtype": "float32",
            "seed": seed,
        }
        arguments = [part for name, value in command.items() for part in (f"--{name}", str(value))]
        evaluate_command.run([*arguments, "--methods", "pargs", "args", "--betas", *map(str, options.betas)])


def report(options: argparse.Namespace) -> None:
    """Means over seeds at equal divergence, in standard deviations of the policy's gold reward."""
    reports = {
        int(file.parent.name.split("-")[-1]): json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(options.folder.glob("evaluation-*/report.json"))
    }
    unguided = mean_curve(one["gold"]["policy 0"] for one in reports.values())
    every = [value for one in reports.values() for value in one["gold"]["policy 0"]]
    spread = mean_with_error(every).error * len(every) ** 0.5
    rows = []
    for target in TARGETS:
        row: dict[str, Any] = {"kl": target}
        gains = {}
        for method in METHODS:
            curves = {seed: gains_at(one, method, unguided, target, spread) for seed, one in reports.items()}
            gains[method] = {seed: curve for seed, curve in curves.items() if curve is not None}
            if gains[method]:
                row[method] = estimate(mean_curve(gains[method].values()))
        row |= difference(gains["pargs"], gains["args"], "pargs - args")
        rows.append(row)
        print(row)
    results = {
        "gold": json.loads((options.folder / "gold_accuracy.json").read_text(encoding="utf-8")),
        "policy's gold reward": {"mean": fmean(every), "standard deviation": spread},
        "gains at equal KL": rows,
        "strengths": {seed: one["rows"] for seed, one in reports.items()},
        "accuracy by fraction read": {seed: one["accuracy_by_fraction_read"] for seed, one in reports.items()},
        "trained": {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in models(options.folder)},
    }
    settings = {"max_new_tokens": options.max_new_tokens, "betas": options.betas, "prompts": len(unguided)}
    settings |= {"longest": LONGEST | {"gold: both": GOLD_LONGEST}}
    print(record("real_preferences", settings, results))


def models(folder: Path) -> list[Path]:
    return [file for name in ("gold", "prefix-*", "full-*") for file in sorted(folder.glob(f"{name}.json"))]


def gains_at(
    one: dict[str, Any], method: str, unguided: list[float], target: float, spread: float
) -> list[float] | None:
    """Gain in gold reward per prompt of one seed at a divergence; None beyond its strongest steering."""
    of_method = {row["strength"]: row["kl"] for row in one["rows"] if row["method"] == method.upper()}
    points = [FrontierPoint(0.0, unguided)]
    points += [FrontierPoint(kl, one["gold"][f"{method} {strength:g}"]) for strength, kl in of_method.items()]
    gold = at_divergence(points, target)
    return gold and [(value - base) / spread for value, base in zip(gold, unguided, strict=True)]


def usable_rows(file: Path, tokenizer: Any) -> list[dict[str, Any]]:
    """Pairs with their ids in random order, without long ones."""
    rows = []
    for row in datasets.load_dataset("json", data_files=str(file), split="train").shuffle(seed=0):
        row |= tokenize_pair(row | {"chosen_finished": True, "rejected_finished": True}, tokenizer)
        longest = max(len(row["chosen_ids"]), len(row["rejected_ids"])) - row["prompt_length"]
        if row["prompt_length"] <= LONGEST["prompt"] and longest <= LONGEST["response"]:
            rows.append(row)
    return rows


def short_prompts(file: Path, tokenizer: Any) -> list[str]:
    """The short prompts of a file, including those whose responses are too long for `usable_rows`."""
    rows = datasets.load_dataset("json", data_files=str(file), split="train")
    texts = list(dict.fromkeys(row["prompt"][0]["content"] for row in rows))
    return [text for text in texts if len(tokenizer(text)["input_ids"]) <= LONGEST["prompt"]]


def is_of_gold(prompt: list[dict[str, str]]) -> bool:
    """Whether a prompt is in the half that trains the gold reward, in any order of the file."""
    return fold_of(prompt[0]["content"], 2) == 0


if __name__ == "__main__":
    main()
