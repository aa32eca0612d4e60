"""Gold reward against divergence: steering heads next to a reward model that scores siblings.

    python benchmarks/bench_heads.py train   --folder outputs/heads --seeds 0 1 2
    python benchmarks/bench_heads.py sample  --folder outputs/heads --seeds 0 1 2
    python benchmarks/bench_heads.py report  --folder outputs/heads --output benchmarks/results/heads.json

All are trained on all of the demo's pairs, with settings that were chosen by cross-validation over training prompts
(bench_heads_designs.py), and judged on prompts that no pair has. Every finished piece is a file of its own, so a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from cpu_training import ON_CPU
from heads_common import (
    MAX_NEW_TOKENS,
    TOP_K,
    distinct_2,
    held_out_prompts,
    load_pairs,
    load_policy,
    quiet_trainer,
    sample,
    train_head,
)
from transformers import AutoModelForSequenceClassification

from rgtg_hf import (
    NextTokenRewardModel,
    PrefixRewardConfig,
    PrefixRewardTrainer,
    RewardGuidedLogitsProcessor,
    merge_heads,
    steering,
)
from rgtg_hf.cli.demo_policy import demo_policy_path
from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence
from rgtg_hf.evaluation.report import describe_hardware, describe_versions, find_commit
from rgtg_hf.rewards.prefix_rewards import find_backbone

# Settings of the head, settings of the training, betas.
HEADS: dict[str, tuple[dict[str, Any], dict[str, Any], list[float]]] = {
    "steering head": ({}, {}, [1.0, 2.0, 3.3, 4.5]),
    "network head": ({"nonlinear": True}, {}, [1.0, 2.0, 4.5]),
}
MERGED_BETAS = [1.0, 2.0, 3.3]
SIBLINGS_BETAS = [0.5, 1.0, 2.0]
TARGETS = [0.5, 1.0, 2.0, 5.0, 10.0]  # nats per response


def train(folder: Path, kinds: list[str], seeds: list[int]) -> None:
    policy, tokenizer = load_policy()
    rows = load_pairs(tokenizer)
    for seed in seeds:
        for kind in kinds:
            target = folder / f"{kind}-{seed}"
            if kind == "merged" or (target / "config.json").exists():
                continue
            start = time.perf_counter()
            with quiet_trainer():
                if kind == "siblings":
                    model = train_siblings(folder, tokenizer, rows, seed)
                else:
                    model = NextTokenRewardModel.from_policy(policy, **HEADS[kind][0])
                    train_head(model, tokenizer, rows, str(folder / "states"), seed=seed, **HEADS[kind][1])
            model.save_pretrained(target)
            print(f"trained {kind} with seed {seed} in {time.perf_counter() - start:.0f} s", flush=True)


def train_siblings(folder: Path, tokenizer: Any, rows: list[dict[str, Any]], seed: int) -> Any:
    """The demo's reward model: the policy's first ten layers, one epoch."""
    columns = ("chosen_ids", "rejected_ids", "prompt_length")
    arguments = PrefixRewardConfig(
        output_dir=str(folder / "scratch"),
        num_layers=10,
        num_train_epochs=1,
        per_device_train_batch_size=8,
        learning_rate=1e-4,
        max_length=None,
        gradient_checkpointing=False,
        seed=seed,
        **ON_CPU,
    )
    trainer = PrefixRewardTrainer(
        model=demo_policy_path(),
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{column: row[column] for column in columns} for row in rows]),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer.model


def draw(folder: Path, kinds: list[str], seeds: list[int]) -> None:
    policy, tokenizer = load_policy()
    prompts = held_out_prompts()

    def keep(kind: str, seed: int, beta: float, processor: Any, merged: Any = None) -> None:
        file = folder / f"samples-{kind}-{seed}-{beta:g}.json"
        if file.exists():
            return
        start = time.perf_counter()
        result = sample(merged or policy, tokenizer, prompts, processor, seed)
        if merged is not None:
            result["kl"] = divergence_of_merged(policy, merged, result["ids"], result["prompt_ids"])
        del result["ids"], result["prompt_ids"]
        file.write_text(json.dumps({"kind": kind, "seed": seed, "beta": beta, **result}), encoding="utf-8")
        gold, kl = np.mean(result["gold"]), np.mean(result["kl"])
        print(
            f"{kind:14} seed {seed} beta {beta:4g}: gold {gold:.3f} kl {kl:.2f} "
            f"distinct-2 {distinct_2(result['texts']):.2f} in {time.perf_counter() - start:.0f} s",
            flush=True,
        )

    for seed in seeds:
        keep("policy", seed, 0.0, None)
        for kind in kinds:
            saved = folder / f"{'steering head' if kind == 'merged' else kind}-{seed}"
            if not (saved / "config.json").exists():
                print(f"{saved} is not trained yet")
            elif kind == "siblings":
                model = AutoModelForSequenceClassification.from_pretrained(saved, dtype="float32")
                for beta in SIBLINGS_BETAS:
                    keep(kind, seed, beta, RewardGuidedLogitsProcessor(model, beta, TOP_K))
            elif kind == "merged":
                head = NextTokenRewardModel.from_pretrained(saved)
                for beta in MERGED_BETAS:
                    keep(kind, seed, beta, None, merge_heads(policy, [(head, beta)]))
            else:
                head = NextTokenRewardModel.from_pretrained(saved).attach(policy)
                with steering(policy, [(head, 0.0)], top_k=TOP_K) as processor:
                    for beta in HEADS[kind][2]:
                        processor.betas = [beta]
                        keep(kind, seed, beta, processor)


@torch.inference_mode()
def divergence_of_merged(
    policy: Any, merged: Any, responses: list[list[int]], prompts: list[list[int]]
) -> list[float]:
    """KL(merged ‖ policy) of each response, summed over its steps and taken over the whole vocabulary.

    A merged policy has candidates of its own, so over the policy's candidates its divergence may be infinite. Both
    read a prefix alike and differ in the output embedding alone.
    """
    divergences = []
    for prompt, response in zip(prompts, responses, strict=True):
        hidden = find_backbone(policy)(torch.tensor([prompt + response])).last_hidden_state[0, len(prompt) - 1 : -1]
        guided, plain = (model.get_output_embeddings()(hidden).log_softmax(-1) for model in (merged, policy))
        divergences.append(float((guided.exp() * (guided - plain)).sum()))
    return divergences


def report(folder: Path, output: str) -> None:
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("samples-*.json"))]
    table, curves = [], {}
    plain = np.mean([run["gold"] for run in runs if run["kind"] == "policy"], axis=0)
    for kind in dict.fromkeys(run["kind"] for run in runs):
        own = [run for run in runs if run["kind"] == kind]
        betas = sorted({run["beta"] for run in own})
        seeds = sorted({run["seed"] for run in own})
        complete = [seed for seed in seeds if {run["beta"] for run in own if run["seed"] == seed} == set(betas)]
        for beta in betas:
            at = [run for run in own if run["beta"] == beta]
            gold = np.mean([run["gold"] for run in at], axis=0)  # per prompt, over seeds
            table.append(
                {
                    "kind": kind,
                    "beta": beta,
                    "seeds": len(at),
                    "prompts": len(gold),
                    "kl": float(np.mean([run["kl"] for run in at])),
                    "gold": float(gold.mean()),
                    "gold_se": float(gold.std(ddof=1) / len(gold) ** 0.5),
                    "gain": float((gold - plain).mean()),
                    "gain_se": float((gold - plain).std(ddof=1) / len(gold) ** 0.5),
                    "gold_by_seed": [round(float(np.mean(run["gold"])), 4) for run in at],
                    "distinct_2": float(np.mean([distinct_2(run["texts"]) for run in at])),
                }
            )
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in table[-1].items()})
        if kind != "policy" and complete:
            curves[kind] = [at_equal_divergence(own, betas, complete, plain, target) for target in TARGETS]
    equal = []
    for place, target in enumerate(TARGETS):
        row: dict[str, Any] = {"kl": target}
        for kind, curve in curves.items():
            if curve[place] is not None:
                row[kind] = estimate(curve[place])
                row[f"{kind}: gain"] = estimate(curve[place] - plain)
                if kind != "siblings" and curves.get("siblings") and curves["siblings"][place] is not None:
                    row[f"{kind} - siblings"] = estimate(curve[place] - curves["siblings"][place])
        equal.append(row)
        print(row)
    record = {
        "table": table,
        "at_equal_kl": equal,
        "top_k": TOP_K,
        "max_new_tokens": MAX_NEW_TOKENS,
        "versions": describe_versions(["torch", "transformers", "trl", "vaderSentiment"]),
        "hardware": describe_hardware(),
        "commit": find_commit(Path(__file__).parent),
    }
    Path(output).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def at_equal_divergence(
    runs: list[dict[str, Any]], betas: list[float], seeds: list[int], plain: np.ndarray, target: float
) -> np.ndarray | None:
    """Gold reward per prompt at a divergence, averaged over seeds; None beyond some seed's largest beta."""
    per_seed = []
    for seed in seeds:
        by_beta = {run["beta"]: run for run in runs if run["seed"] == seed}
        points = [FrontierPoint(0.0, plain.tolist())]
        points += [FrontierPoint(float(np.mean(by_beta[beta]["kl"])), by_beta[beta]["gold"]) for beta in betas]
        if (gold := at_divergence(points, target)) is None:
            return None
        per_seed.append(gold)
    return np.mean(per_seed, axis=0)


def estimate(values: np.ndarray) -> list[float]:
    """Mean over prompts and its standard error."""
    return [round(float(values.mean()), 4), round(float(values.std(ddof=1) / len(values) ** 0.5), 4)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=["train", "sample", "report"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", default=[*HEADS, "merged", "siblings"])
    parser.add_argument("--output", default="benchmarks/results/heads.json")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.stage == "train":
        train(options.folder, options.kinds, options.seeds)
    elif options.stage == "sample":
        draw(options.folder, options.kinds, options.seeds)
    else:
        report(options.folder, options.output)


if __name__ == "__main__":
    main()
