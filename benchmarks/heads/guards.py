"""Do guards keep text sane at a high beta better than a lower beta does?

    python -m benchmarks.heads.guards sample --folder outputs/heads --seeds 0 1
    python -m benchmarks.heads.guards report --folder outputs/heads --seeds 0 1

A guard lowers the divergence, and so does a lower beta. So each guarded setting of a steering head is compared with
the unguarded head at the same divergence, between the two nearest betas: gold reward, perplexity under the policy,
repetition, distinct pairs of words. frontier.py trains the heads. Every finished piece is a file of its own, so a run
that was stopped can continue.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.estimates import estimate
from benchmarks.heads.samples import MAX_NEW_TOKENS, TOP_K, distinct_2, sample
from benchmarks.models import load_policy
from benchmarks.record import record
from benchmarks.tasks import held_out_prompts
from rgtg_hf import NextTokenRewardModel, steering
from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence
from rgtg_hf.evaluation.text_metrics import perplexity, repetition


class Setting(NamedTuple):
    """The strength of the head, and its limits."""

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


def draw(folder: Path, seeds: list[int], number: int | None) -> None:
    policy, tokenizer = load_policy()
    prompts = held_out_prompts()[:number]
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
                float(np.log(perplexity([likelihood], [len(ids)])))
                for likelihood, ids in zip(result.pop("log_likelihoods"), result.pop("ids"), strict=True)
            ]
            del result["prompt_ids"]
            result["repetition"] = [repetition([text]) for text in result["texts"]]
            result["distinct_2"] = [distinct_2([text]) if len(text.split()) > 1 else 1.0 for text in result["texts"]]
            file.write_text(json.dumps({"seed": seed, "setting": setting, **result}), encoding="utf-8")
            means = {name: round(float(np.mean(result[name])), 3) for name in ("kl", *MEASURES)}
            print(f"seed {seed} {setting}: {means}", flush=True)


def report(folder: Path, seeds: list[int], output: Path | None) -> None:
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
                row[f"{name} minus unguarded at equal kl"] = estimate(np.mean(gaps, axis=0))
        rows.append(row)
        print(row)
    print(record("guards", {"seeds": seeds, "max_new_tokens": MAX_NEW_TOKENS, "top_k": TOP_K}, rows, output))


def gap(runs: dict[Setting, list[dict[str, Any]]], place: int, guarded: dict[str, Any], name: str) -> np.ndarray:
    """A guarded run minus the unguarded runs of its seed at the same divergence, per prompt."""
    unguarded = [runs[setting][place] for setting in [POLICY, *UNGUARDED]]
    points = [FrontierPoint(float(np.mean(run["kl"])), run[name]) for run in unguarded]
    at_equal = at_divergence(points, float(np.mean(guarded["kl"])))
    assert at_equal is not None, "the guarded run diverges further than the unguarded run with the largest beta"
    return np.array(guarded[name]) - np.array(at_equal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["sample", "report"])
    parser.add_argument("--folder", type=Path, required=True, help="the folder of frontier.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, help="held-out prompts, of 104 (default: all)")
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    args = parser.parse_args()
    if args.stage == "sample":
        draw(args.folder, args.seeds, args.prompts)
    else:
        report(args.folder, args.seeds, args.output)


if __name__ == "__main__":
    main()
