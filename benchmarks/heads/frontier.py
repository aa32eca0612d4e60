"""Do steering heads reach the gold reward of a reward model that reads siblings, at equal divergence?

    python -m benchmarks.heads.frontier train  --folder outputs/heads --seeds 0 1 2
    python -m benchmarks.heads.frontier sample --folder outputs/heads --seeds 0 1 2
    python -m benchmarks.heads.frontier report --folder outputs/heads

All models are trained on all of the demo's pairs and judged on prompts that no pair has. Their settings were chosen by
cross-validation over training prompts (designs.py). Every finished piece is a file of its own, so a run that was
stopped can continue.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from benchmarks import models
from benchmarks.estimates import estimate
from benchmarks.heads.samples import MAX_NEW_TOKENS, TOP_K, distinct_2, sample
from benchmarks.record import record
from benchmarks.tasks import held_out_prompts, training_pairs
from rgtg_hf import NextTokenRewardModel, RewardGuidedLogitsProcessor, merge_heads, steering
from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence
from rgtg_hf.rewards.parts import find_backbone

# Settings of the head, and betas.
HEADS: dict[str, tuple[dict[str, Any], list[float]]] = {
    "steering head": ({}, [1.0, 2.0, 3.3, 4.5]),
    "network head": ({"nonlinear": True}, [1.0, 2.0, 4.5]),
}
MERGED_BETAS = [1.0, 2.0, 3.3]
SIBLINGS_BETAS = [0.5, 1.0, 2.0]
KINDS = [*HEADS, "merged", "siblings"]
TARGETS = [0.5, 1.0, 2.0, 5.0, 10.0]  # nats per response


def train(folder: Path, kinds: list[str], seeds: list[int], pairs: int | None) -> None:
    _, tokenizer = models.load_policy()
    rows = training_pairs("sentiment", tokenizer, folder)[:pairs]
    for seed in seeds:
        for kind in kinds:
            target = folder / f"{kind}-{seed}"
            if kind == "merged" or target.exists():
                continue
            if kind == "siblings":
                seconds = models.train("prefix", target, tokenizer, rows, seed=seed)
            else:
                settings = HEADS[kind][0]
                seconds = models.train("head", target, tokenizer, rows, seed=seed, head=settings)
            print(f"trained {kind} with seed {seed} in {seconds:.0f} s", flush=True)


def draw(folder: Path, kinds: list[str], seeds: list[int], number: int | None) -> None:
    policy, tokenizer = models.load_policy()
    prompts = held_out_prompts()[:number]

    def keep(kind: str, seed: int, beta: float, processor: Any, merged: Any = None) -> None:
        file = folder / f"samples-{kind}-{seed}-{beta:g}.json"
        if file.exists():
            return
        start = time.perf_counter()
        result = sample(merged or policy, tokenizer, prompts, processor, seed)
        if merged is not None:
            result["kl"] = divergence_of_merged(policy, merged, result["ids"], result["prompt_ids"])
        del result["ids"], result["prompt_ids"], result["log_likelihoods"]
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
                    for beta in HEADS[kind][1]:
                        processor.betas = [beta]
                        keep(kind, seed, beta, processor)


@torch.inference_mode()
def divergence_of_merged(
    policy: Any, merged: Any, responses: list[list[int]], prompts: list[list[int]]
) -> list[float]:
    """KL(merged ‖ policy) of each response over the whole vocabulary, summed over its steps.

    A merged policy has its own candidates, so its divergence over the policy's candidates may be infinite. The two
    models have the same hidden states and differ in the output embedding alone.
    """
    divergences = []
    for prompt, response in zip(prompts, responses, strict=True):
        hidden = find_backbone(policy)(torch.tensor([prompt + response])).last_hidden_state[0, len(prompt) - 1 : -1]
        guided, plain = (model.get_output_embeddings()(hidden).log_softmax(-1) for model in (merged, policy))
        divergences.append(float((guided.exp() * (guided - plain)).sum()))
    return divergences


def report(folder: Path, output: Path | None) -> None:
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
            (mean, error), (gain, gain_error) = estimate(gold), estimate(gold - plain)
            table.append(
                {
                    "kind": kind,
                    "beta": beta,
                    "seeds": len(at),
                    "prompts": len(gold),
                    "kl": float(np.mean([run["kl"] for run in at])),
                    "gold": mean,
                    "gold_se": error,
                    "gain": gain,
                    "gain_se": gain_error,
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
    settings = {"top_k": TOP_K, "max_new_tokens": MAX_NEW_TOKENS}
    print(record("heads", settings, {"table": table, "at_equal_kl": equal}, output))


def at_equal_divergence(
    runs: list[dict[str, Any]], betas: list[float], seeds: list[int], plain: np.ndarray, target: float
) -> np.ndarray | None:
    """Gold reward per prompt at a divergence, averaged over seeds; None beyond a seed's largest beta."""
    per_seed = []
    for seed in seeds:
        by_beta = {run["beta"]: run for run in runs if run["seed"] == seed}
        points = [FrontierPoint(0.0, plain.tolist())]
        points += [FrontierPoint(float(np.mean(by_beta[beta]["kl"])), by_beta[beta]["gold"]) for beta in betas]
        if (gold := at_divergence(points, target)) is None:
            return None
        per_seed.append(gold)
    return np.mean(per_seed, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["train", "sample", "report"])
    parser.add_argument("--folder", type=Path, required=True, help="where finished pieces are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--pairs", type=int, help="training pairs, of 801 (default: all)")
    parser.add_argument("--prompts", type=int, help="held-out prompts, of 104 (default: all)")
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.stage == "train":
        train(args.folder, args.kinds, args.seeds, args.pairs)
    elif args.stage == "sample":
        draw(args.folder, args.kinds, args.seeds, args.prompts)
    else:
        report(args.folder, args.output)


if __name__ == "__main__":
    main()
