"""Do guards keep text sane at a high beta better than a lower beta does? One steering head, with and without them.

    python benchmarks/bench_guards.py sample --folder outputs/heads --seeds 0 1
    python benchmarks/bench_guards.py report --folder outputs/heads --seeds 0 1

A guard lowers the divergence, and so does a lower beta. So each guarded setting is compared with the head unguarded
at the same divergence, between the two nearest betas: gold reward, perplexity under the policy, repetition, distinct
pairs of words. Heads come from bench_heads.py. Every finished piece is a file of its own, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_heads import estimate
from heads_common import MAX_NEW_TOKENS, TOP_K, distinct_2, held_out_prompts, load_policy, sample
from record import record

from rgtg_hf import NextTokenRewardModel, steering
from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence
from rgtg_hf.evaluation.text_metrics import perplexity, repetition


class Setting(NamedTuple):
    """How strong the head is, and what holds it back."""

    beta: float
    max_increment: float | None = None
    max_step_kl: float | None = None


POLICY = Setting(0.0)
UNGUARDED = [Setting(2.0), Setting(4.5), Setting(9.0), Setting(18.0)]
GUARDED = [
    Setting(9.0, max_increment=2.0),
    Setting(18.0, max_increment=2.0),
    Setting(9.0, max_step_kl=0.5),
    Setting(18.0, max_step_kl=0.5),
]
MEASURES = ("gold", "log_perplexity", "repetition", "distinct_2")


def file_of(folder: Path, seed: int, setting: Setting) -> Path:
    parts = ["guards", seed, *("none" if value is None else f"{value:g}" for value in setting)]
    return folder / ("-".join(map(str, parts)) + ".json")


def draw(folder: Path, seeds: list[int]) -> None:
    policy, tokenizer = load_policy()
    prompts = held_out_prompts()
    for seed in seeds:
        head = NextTokenRewardModel.from_pretrained(folder / f"steering head-{seed}").attach(policy)
        for setting in [POLICY, *UNGUARDED, *GUARDED]:
            file = file_of(folder, seed, setting)
            if file.exists():
                continue
            limits = {"max_increment": setting.max_increment, "max_step_kl": setting.max_step_kl}
            with steering(policy, [(head, setting.beta)], top_k=TOP_K, **limits) as processor:
                result = sample(policy, tokenizer, prompts, processor, seed)
            result["log_perplexity"] = [
                float(np.log(perplexity([log_likelihood(policy, prompt, ids)], [len(ids)])))
                for prompt, ids in zip(result.pop("prompt_ids"), result.pop("ids"), strict=True)
            ]
            result["repetition"] = [repetition([text]) for text in result["texts"]]
            result["distinct_2"] = [distinct_2([text]) if len(text.split()) > 1 else 1.0 for text in result["texts"]]
            file.write_text(json.dumps({"seed": seed, "setting": setting, **result}), encoding="utf-8")
            means = {name: round(float(np.mean(result[name])), 3) for name in ("kl", *MEASURES)}
            print(f"seed {seed} {setting}: {means}", flush=True)


@torch.inference_mode()
def log_likelihood(policy: Any, prompt: list[int], response: list[int]) -> float:
    """Of a response, under the policy and over its whole vocabulary."""
    logits = policy(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None]).sum())


def report(folder: Path, seeds: list[int]) -> None:
    runs = {
        setting: [json.loads(file_of(folder, seed, setting).read_text(encoding="utf-8")) for seed in seeds]
        for setting in [POLICY, *UNGUARDED, *GUARDED]
    }
    rows = []
    for setting, own in runs.items():
        row: dict[str, Any] = setting._asdict() | {"kl": float(np.mean([run["kl"] for run in own]))}
        row |= {name: estimate(np.mean([run[name] for run in own], axis=0)) for name in MEASURES}
        if setting in GUARDED:
            for name in MEASURES:
                gaps = [gap(runs, place, run, name) for place, run in enumerate(own)]
                row[f"{name} less unguarded at equal kl"] = estimate(np.mean(gaps, axis=0))
        rows.append(row)
        print(row)
    print(record("guards", {"seeds": seeds, "max_new_tokens": MAX_NEW_TOKENS, "top_k": TOP_K}, rows))


def gap(runs: dict[Setting, list[dict[str, Any]]], place: int, guarded: dict[str, Any], name: str) -> np.ndarray:
    """Per prompt, what a guarded run has more than the unguarded ones of its seed at its divergence."""
    unguarded = [runs[setting][place] for setting in [POLICY, *UNGUARDED]]
    points = [FrontierPoint(float(np.mean(run["kl"])), run[name]) for run in unguarded]
    at_equal = at_divergence(points, float(np.mean(guarded["kl"])))
    assert at_equal is not None, "the guarded run diverges further than the largest beta unguarded"
    return np.array(guarded[name]) - np.array(at_equal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["sample", "report"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    if args.stage == "sample":
        draw(args.folder, args.seeds)
    else:
        report(args.folder, args.seeds)


if __name__ == "__main__":
    main()
