"""Which design of a steering head rates held-out pairs best? Cross-validation over the demo's training prompts.

    python benchmarks/bench_heads_designs.py --states outputs/states --output benchmarks/results/heads_designs.json

Each design is trained on two of three folds of prompts and judged on the third, for each fold and each seed. The
evaluation prompts of the demo take no part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from heads_common import FOLDS, load_pairs, load_policy, quiet_trainer, train_head
from torch import Tensor

from rgtg_hf import NextTokenRewardModel
from rgtg_hf.cli.demo_policy import demo_policy_path
from rgtg_hf.evaluation.report import describe_hardware, describe_versions, find_commit
from rgtg_hf.rewards.token_head import TokenHead
from rgtg_hf.training.models import load_reward_model


class ValueHead(TokenHead):
    """The other read-out: r(x, y_<=i) = u(h_{i-1}) · P e_{y_i} itself, no sum."""

    def forward(self, hidden: Tensor, input_ids: Tensor, attention_mask: Tensor, embeddings: Tensor) -> Tensor:
        """Rewards of all prefixes, shape `[batch, length, 1]`."""
        rewards = super().forward(hidden, input_ids, attention_mask, embeddings)
        return F.pad(rewards.diff(dim=1), (0, 0, 1, 0))


BASE = {"nonlinear": True, "rank": 128}
# name: (settings of the head, settings of the training, read-out)
DESIGNS = {
    "mlp, advantages": (BASE, {}, TokenHead),
    "mlp, value": (BASE, {}, ValueHead),
    "linear, advantages": (BASE | {"nonlinear": False}, {}, TokenHead),
    "linear, value": (BASE | {"nonlinear": False}, {}, ValueHead),
    "rank 16": (BASE | {"rank": 16}, {}, TokenHead),
    "rank 512": (BASE | {"rank": 512}, {}, TokenHead),
    "1 epoch": (BASE, {"num_train_epochs": 1}, TokenHead),
    "10 epochs": (BASE, {"num_train_epochs": 10}, TokenHead),
    "learning rate 3e-4": (BASE, {"learning_rate": 3e-4}, TokenHead),
    "learning rate 3e-3": (BASE, {"learning_rate": 3e-3}, TokenHead),
    "weight decay 0": (BASE, {"weight_decay": 0.0}, TokenHead),
    "weight decay 1": (BASE, {"weight_decay": 1.0}, TokenHead),
    "dropout 0.3": (BASE | {"dropout": 0.3}, {"disable_dropout": False}, TokenHead),
    "linear, learning rate 3e-4": (BASE | {"nonlinear": False}, {"learning_rate": 3e-4}, TokenHead),
    "linear, learning rate 3e-3": (BASE | {"nonlinear": False}, {"learning_rate": 3e-3}, TokenHead),
    "rank 4": (BASE | {"rank": 4}, {}, TokenHead),
    "rank 16, 1 epoch": (BASE | {"rank": 16}, {"num_train_epochs": 1}, TokenHead),
    "rank 16, 2 epochs": (BASE | {"rank": 16}, {"num_train_epochs": 2}, TokenHead),
    "rank 16, learning rate 3e-4": (BASE | {"rank": 16}, {"learning_rate": 3e-4}, TokenHead),
    "rank 16, dropout 0.3": (BASE | {"rank": 16, "dropout": 0.3}, {"disable_dropout": False}, TokenHead),
    "rank 16, value": (BASE | {"rank": 16}, {}, ValueHead),
    "rank 128, learning rate 3e-4, 1 epoch": (BASE, {"learning_rate": 3e-4, "num_train_epochs": 1}, TokenHead),
    "linear, 1 epoch": (BASE | {"nonlinear": False}, {"num_train_epochs": 1}, TokenHead),
    "linear, learning rate 1e-4": (BASE | {"nonlinear": False}, {"learning_rate": 1e-4}, TokenHead),
    "linear, learning rate 3e-5": (BASE | {"nonlinear": False}, {"learning_rate": 3e-5}, TokenHead),
    "linear, rank 16": (BASE | {"nonlinear": False, "rank": 16}, {}, TokenHead),
    "linear, rank 16, learning rate 3e-4": (
        BASE | {"nonlinear": False, "rank": 16},
        {"learning_rate": 3e-4},
        TokenHead,
    ),
    "linear, rank 16, learning rate 1e-4": (
        BASE | {"nonlinear": False, "rank": 16},
        {"learning_rate": 1e-4},
        TokenHead,
    ),
    "linear, rank 16, learning rate 1e-4, value": (
        BASE | {"nonlinear": False, "rank": 16},
        {"learning_rate": 1e-4},
        ValueHead,
    ),
    "linear, rank 4, learning rate 1e-4": (BASE | {"nonlinear": False, "rank": 4}, {"learning_rate": 1e-4}, TokenHead),
    "linear, 10 epochs": (BASE | {"nonlinear": False}, {"num_train_epochs": 10}, TokenHead),
}
# The head on the hidden states of a policy's first layers, behind its last norm; all layers by default.
LAYERS = {"rank 16, first 10 layers": 10, "rank 16, first 20 layers": 20}
DESIGNS |= {name: (BASE | {"rank": 16}, {}, TokenHead) for name in LAYERS}


def make_head(policy: Any, name: str) -> NextTokenRewardModel:
    settings, _, readout = DESIGNS[name]
    if name in LAYERS:
        layers = load_reward_model(demo_policy_path(), LAYERS[name])
        head = NextTokenRewardModel.from_backbone(layers, **settings)
        head.backbone.requires_grad_(False)
    else:
        head = NextTokenRewardModel.from_policy(policy, **settings)
    head.score.__class__ = readout
    return head


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--states", required=True, help="folder for the hidden states")
    parser.add_argument("--output", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--designs", nargs="+", default=list(DESIGNS))
    options = parser.parse_args()
    policy, tokenizer = load_policy()
    rows = load_pairs(tokenizer)
    results = json.loads(Path(options.output).read_text())["designs"] if Path(options.output).exists() else {}
    for name in options.designs:
        training = DESIGNS[name][1]
        runs, start = [], time.perf_counter()
        for seed in options.seeds:
            for fold in range(FOLDS):
                head = make_head(policy, name)
                with quiet_trainer():
                    metrics = train_head(
                        head,
                        tokenizer,
                        [row for row in rows if row["fold"] != fold],
                        f"{options.states}-{LAYERS[name]}-layers" if name in LAYERS else options.states,
                        seed=seed,
                        evaluation=[row for row in rows if row["fold"] == fold],
                        **training,
                    )
                runs.append(metrics)
        results[name] = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        results[name]["accuracy_by_run"] = [run["accuracy"] for run in runs]  # all folds of a seed, then the next seed
        results[name]["seeds"] = options.seeds
        results[name]["seconds_per_run"] = (time.perf_counter() - start) / len(runs)
        shown = {key: round(value, 3) for key, value in results[name].items() if isinstance(value, float)}
        print(f"{name:28}", shown, flush=True)
        record = {
            "designs": results,
            "pairs": len(rows),
            "folds": FOLDS,
            "versions": describe_versions(["torch", "transformers", "trl"]),
            "hardware": describe_hardware(),
            "commit": find_commit(Path(__file__).parent),
        }
        Path(options.output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
