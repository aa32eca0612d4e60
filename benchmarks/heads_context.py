"""How much of what a steering head adds to the candidates is the same in every context?

    python benchmarks/heads_context.py --folder outputs/heads --seeds 0 1 2

A head's increments are d(h) · e_v. With d averaged over contexts they depend on the token alone: a list of words to
prefer. The variance of the increments over the candidates, weighted by the policy, splits into that part and the rest.
Contexts are all positions of some preferred responses of the training pairs; heads come from bench_heads.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from heads_common import TOP_K, load_pairs, load_policy
from record import record
from torch import Tensor

from rgtg_hf import NextTokenRewardModel
from rgtg_hf.rewards.prefix_rewards import find_backbone

KINDS = ("steering head", "linear head")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of bench_heads.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--every", type=int, default=40, help="take one pair of so many")
    parser.add_argument("--out", type=Path, help="folder for the result, instead of benchmarks/results")
    options = parser.parse_args()
    policy, tokenizer = load_policy()
    hidden = read_contexts(policy, load_pairs(tokenizer)[:: options.every])
    embeddings = policy.get_output_embeddings().weight.detach()
    scores, candidates = (hidden @ embeddings.T).topk(TOP_K)
    results = []
    for kind in KINDS:
        for seed in options.seeds:
            head = NextTokenRewardModel.from_pretrained(options.folder / f"{kind}-{seed}").attach(policy)
            shares = split(head, hidden, embeddings[candidates], scores.softmax(-1))
            results.append({"kind": kind, "seed": seed, "contexts": len(hidden)} | shares)
            print(results[-1])
    record("heads_context", {"every": options.every, "top_k": TOP_K}, results, options.out)


@torch.inference_mode()
def read_contexts(policy: Any, rows: list[dict[str, Any]]) -> Tensor:
    """The policy's hidden states before each token of the preferred responses, shape `[contexts, hidden_size]`."""
    states = []
    for row in rows:
        hidden = find_backbone(policy)(torch.tensor([row["chosen_ids"]])).last_hidden_state[0]
        states.append(hidden[row["prompt_length"] - 1 : -1])
    return torch.cat(states)


@torch.inference_mode()
def split(head: NextTokenRewardModel, hidden: Tensor, embeddings: Tensor, chances: Tensor) -> dict[str, float]:
    """Variances of the increments over candidates; `embeddings` has the shape `[contexts, k, embedding_size]`."""
    directions = head.score.directions(hidden).float()
    everywhere = directions.mean(0).expand_as(directions)
    found = {}
    parts = {"all": directions, "same everywhere": everywhere, "of the context": directions - everywhere}
    for name, part in parts.items():
        increments = torch.einsum("nd,nkd->nk", part, embeddings)
        increments = increments - (chances * increments).sum(-1, keepdim=True)
        found[name] = float((chances * increments.square()).sum(-1).mean())
    return found | {"share that is the same everywhere": found["same everywhere"] / found["all"]}


if __name__ == "__main__":
    main()
