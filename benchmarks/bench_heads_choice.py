"""Which rank of a steering head steers best at equal divergence? Asked on training prompts, so that none is tuned on.

    python benchmarks/bench_heads_choice.py --folder outputs/heads

Heads come from bench_heads.py. Betas are such that both ranks spend about three nats per response.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from heads_common import TOP_K, load_policy, sample
from record import record

from rgtg_hf import NextTokenRewardModel, steering
from rgtg_hf.cli.demo_rows import preference_pairs

BETAS = {"steering head": 4.0, "steering head, rank 128": 1.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of bench_heads.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=104)
    parser.add_argument("--out", type=Path, help="folder for the result, instead of benchmarks/results")
    options = parser.parse_args()
    policy, tokenizer = load_policy()
    prompts = sorted({row["prompt"][0]["content"] for row in preference_pairs()})
    prompts = random.Random(0).sample(prompts, options.prompts)
    results = []
    for seed in options.seeds:
        for kind, beta in BETAS.items():
            head = NextTokenRewardModel.from_pretrained(options.folder / f"{kind}-{seed}").attach(policy)
            with steering(policy, [(head, beta)], top_k=TOP_K) as processor:
                result = sample(policy, tokenizer, prompts, processor, seed)
            gold = np.array(result["gold"])
            row = {"kind": kind, "seed": seed, "beta": beta, "kl": float(np.mean(result["kl"]))}
            row |= {"gold": float(gold.mean()), "gold_se": float(gold.std(ddof=1) / len(gold) ** 0.5)}
            results.append(row)
            print(row, flush=True)
    record("heads_choice", {"prompts": options.prompts, "top_k": TOP_K}, results, options.out)


if __name__ == "__main__":
    main()
