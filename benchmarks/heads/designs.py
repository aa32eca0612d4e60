"""Which design of a steering head buys the most gold reward for its divergence, judged on training prompts alone?

    python -m benchmarks.heads.designs --folder outputs/heads_designs --seeds 0

Each design is trained on two of three folds of the prompts and judged on samples of the policy for the third fold
(see slopes.py), for each fold, seed and task. The evaluation prompts take no part.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from benchmarks.heads.slopes import FOLDS, Steps, centre, compare, draw_responses, fold_of, read_steps
from benchmarks.models import COMMON, HEAD, ids_dataset, load_policy, quiet_trainer
from benchmarks.record import record
from benchmarks.tasks import TASKS, prompts_of_pairs, training_pairs
from rgtg_hf import NextTokenRewardModel, PrefixRewardConfig, PrefixRewardTrainer
from rgtg_hf.rewards.token_head import token_increments

NETWORK = {"nonlinear": True}
# Settings of the head, and of its training. The others are compared with the first.
DESIGNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "network, context 1, learning rate 1e-3": (NETWORK | {"context_scale": 1.0}, {"learning_rate": 1e-3}),
    "network, context 1": (NETWORK | {"context_scale": 1.0}, {}),
    "network, context 0.01": (NETWORK | {"context_scale": 0.01}, {}),
    "network, context 0.001": (NETWORK | {"context_scale": 0.001}, {}),
    "network, context 0.001, rank 16": (NETWORK | {"context_scale": 0.001, "rank": 16}, {}),
    "context 0": ({"context_scale": 0.0}, {}),
    "linear, context 0.001": ({"context_scale": 0.001}, {}),
    "linear, context 0.01": ({"context_scale": 0.01}, {}),
    "linear, context 0.1": ({"context_scale": 0.1}, {}),
    "linear, context 0.001, rank 16": ({"context_scale": 0.001, "rank": 16}, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for samples and hidden states")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--prompts", type=int, help="training prompts, of 228 (default: all)")
    parser.add_argument("--draws", type=int, default=4, help="responses to each training prompt")
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    policy, tokenizer = load_policy()
    prompts = prompts_of_pairs()[: args.prompts]
    responses = draw_responses(args.folder / "slopes.json", policy, tokenizer, prompts, args.draws)
    steps = read_steps(responses, policy, args.folder / "states")
    folds = torch.tensor([fold_of(response["prompt"]) for response in responses])
    results = []
    for task in args.tasks:
        gold = centre(TASKS[task].gold([response["text"] for response in responses]), args.draws)
        rows = [row for row in training_pairs(task, tokenizer, args.folder) if row["prompt"][0]["content"] in prompts]
        first = None
        for name in args.designs:
            start = time.perf_counter()
            slopes, variances, metrics = [], [], []
            for seed in args.seeds:
                advantages = torch.zeros(steps.candidates.shape)
                for fold in range(FOLDS):
                    head, metric = train(policy, tokenizer, rows, fold, seed, name, args.folder / "states")
                    metrics.append(metric)
                    of_fold = (folds == fold)[steps.response]
                    advantages[of_fold] = rate(head, steps, of_fold)
                slope = steps.slope(advantages, gold)
                slopes.append(slope.per_response)
                variances.append(slope.variance)
            mean = torch.stack(slopes).mean(0)
            first = mean if first is None else first
            result: dict[str, Any] = {"task": task, "design": name, "slope": compare(mean, torch.zeros_like(mean))}
            result |= {"minus the first": compare(mean, first), "variance": sum(variances) / len(variances)}
            for metric in ("accuracy", "accuracy_at_100", "loss", "train_loss"):
                result[metric] = sum(row[metric] for row in metrics) / len(metrics)
            results.append(result | {"seconds": round(time.perf_counter() - start)})
            print(result, flush=True)
    settings = {"tasks": args.tasks, "seeds": args.seeds, "draws": args.draws, "responses": len(responses)}
    print(record("heads_designs", settings, results, args.output))


def train(
    policy: Any, tokenizer: Any, rows: list[dict[str, Any]], fold: int, seed: int, name: str, states: Path
) -> tuple[NextTokenRewardModel, dict[str, float]]:
    """Trains a head without the pairs of a fold. Returns it and its metrics on the pairs of the fold."""
    head_settings, training = DESIGNS[name]
    parts: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for row in rows:
        parts[fold_of(row["prompt"][0]["content"]) == fold].append(row)
    set_seed(seed)
    head = NextTokenRewardModel.from_policy(policy, **head_settings)
    columns = ("chosen_ids", "rejected_ids", "prompt_length")
    with tempfile.TemporaryDirectory() as scratch, quiet_trainer():
        settings = COMMON | HEAD | training | {"hidden_states_dir": str(states), "seed": seed}
        trainer = PrefixRewardTrainer(
            head,
            PrefixRewardConfig(scratch, **settings),
            train_dataset=ids_dataset(parts[False], *columns),
            eval_dataset=ids_dataset(parts[True], *columns),
            processing_class=tokenizer,
        )
        trainer.train()
        head.eval()
        metrics = trainer.evaluate()
        train_loss = trainer.evaluate(trainer.train_dataset)["eval_loss"]
    names = ("loss", "accuracy", "accuracy_at_100")
    return head, {name: metrics[f"eval_{name}"] for name in names} | {"train_loss": train_loss}


@torch.inference_mode()
def rate(head: NextTokenRewardModel, steps: Steps, chosen: Tensor) -> Tensor:
    """Increments of the candidates of some steps, shape `[steps, k]`."""
    hidden, candidates = steps.hidden[chosen], steps.candidates[chosen]
    parts = zip(hidden.split(4096), candidates.split(4096), strict=True)
    return torch.cat([token_increments(head.score.directions(h), c, head.token_embeddings) for h, c in parts])


if __name__ == "__main__":
    main()
