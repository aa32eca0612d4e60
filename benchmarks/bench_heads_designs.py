"""Which design of a steering head buys the most gold reward for its divergence? Asked on training prompts alone.

    python benchmarks/bench_heads_designs.py --folder outputs/heads_designs --seeds 0

Each design is trained on two of three folds of prompts and judged on samples of the policy to prompts of the third
(slopes.py says how), for each fold, seed and task. The evaluation prompts take no part.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from heads_common import load_policy, quiet_trainer, train_head
from paper_data import TASKS, training_pairs
from record import record
from slopes import FOLDS, Steps, centre, compare, draw_responses, fold_of, read_steps
from torch import Tensor
from transformers import set_seed

from rgtg_hf import NextTokenRewardModel
from rgtg_hf.rewards.token_head import advantages_of

NETWORK = {"nonlinear": True}
# The settings of the head, and of the training. The first is what the others are compared with.
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
    parser.add_argument("--draws", type=int, default=4, help="responses to each training prompt")
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--out", type=Path, help="folder for the result, instead of benchmarks/results")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    policy, tokenizer = load_policy()
    responses = draw_responses(args.folder / "slopes.json", policy, tokenizer, args.draws)
    steps = read_steps(responses, policy, args.folder / "states")
    folds = torch.tensor([fold_of(response["prompt"]) for response in responses])
    results = []
    for task in args.tasks:
        gold = centre(TASKS[task].gold([response["text"] for response in responses]), args.draws)
        rows = training_pairs(task, tokenizer, args.folder)
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
            result |= {"less the first's": compare(mean, first), "variance": sum(variances) / len(variances)}
            for metric in ("accuracy", "accuracy_at_100", "loss", "train_loss"):
                result[metric] = sum(row[metric] for row in metrics) / len(metrics)
            results.append(result | {"seconds": round(time.perf_counter() - start)})
            print(result, flush=True)
    settings = {"tasks": args.tasks, "seeds": args.seeds, "draws": args.draws, "responses": len(responses)}
    print(record("heads_designs", settings, results, args.out))


def train(
    policy: Any, tokenizer: Any, rows: list[dict[str, Any]], fold: int, seed: int, name: str, states: Path
) -> tuple[NextTokenRewardModel, dict[str, float]]:
    """A head that has seen no pair of a fold, and how it ranks the fold's pairs."""
    head_settings, training = DESIGNS[name]
    parts: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for row in rows:
        parts[fold_of(row["prompt"][0]["content"]) == fold].append(row)
    set_seed(seed)
    head = NextTokenRewardModel.from_policy(policy, **head_settings)
    with quiet_trainer():
        metrics = train_head(head, tokenizer, parts[False], str(states), seed=seed, evaluation=parts[True], **training)
    return head, metrics


@torch.inference_mode()
def rate(head: NextTokenRewardModel, steps: Steps, chosen: Tensor) -> Tensor:
    """Advantages of the candidates of some steps, shape `[steps, k]`."""
    hidden, candidates = steps.hidden[chosen], steps.candidates[chosen]
    parts = zip(hidden.split(4096), candidates.split(4096), strict=True)
    return torch.cat([advantages_of(head.score.directions(h), c, head.token_embeddings) for h, c in parts])


if __name__ == "__main__":
    main()
