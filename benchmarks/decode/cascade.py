"""Must every candidate be read at every step? Cascades and filters, next to siblings at every step.

    python -m benchmarks.decode.cascade sample --folder outputs/heads --prompts training --settings 2,1.15,1.8,0
    python -m benchmarks.decode.cascade sample --folder outputs/heads --prompts held_out --settings 2,1.15,1.8,0
    python -m benchmarks.decode.cascade time   --folder outputs/heads --settings 2,1.15,1.8,0
    python -m benchmarks.decode.cascade report --folder outputs/heads --prompts held_out --settings 2,1.15,1.8,0

A setting is `head_beta,beta,min_entropy,min_p`. A steering head, which costs nothing, guides every step with
`head_beta` (0: no head). Then the reward model guides with `beta` the steps whose entropy is still at least
`min_entropy` nats. It reads the candidates that are at least `min_p` times as likely as the most likely one. The
processors follow one another in `generate(logits_processor=[head, reward_model])`.

benchmarks/heads/frontier.py trains the models. Choose settings on training prompts and judge them on held-out ones.
Every finished piece is a file of its own, so a run that was stopped can continue.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, LogitsProcessor

from benchmarks.estimates import estimate
from benchmarks.heads.samples import MAX_NEW_TOKENS, TOP_K, distinct_2, sample
from benchmarks.models import load_policy
from benchmarks.record import record
from benchmarks.tasks import held_out_prompts, prompts_of_pairs
from rgtg_hf import NextTokenRewardModel, RewardGuidanceConfig, RewardGuidedLogitsProcessor, steering
from rgtg_hf.cli.prompt_files import encode_prompts
from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence

Setting = tuple[float, float, float, float]
EVERY_STEP: list[Setting] = [(0, beta, 0, 0) for beta in (0.5, 1.0, 2.0)]
POLICY: Setting = (0, 0, 0, 0)


class Cascade(LogitsProcessor):
    """A head and then a reward model as one processor, so that the divergence of both together is recorded."""

    def __init__(self, head: Any, reward_model: RewardGuidedLogitsProcessor | None) -> None:
        self.parts = [part for part in (head, reward_model) if part is not None]
        self.reward_model = reward_model

    def reset(self, attention_mask: torch.Tensor) -> None:
        """Takes the mask of new prompts."""
        if self.reward_model is not None:
            self.reward_model.reset(attention_mask)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Runs all parts in turn."""
        for part in self.parts:
            scores = part(input_ids, scores)
        return scores


@contextlib.contextmanager
def cascade(policy: Any, folder: Path, seed: int, setting: Setting) -> Iterator[Cascade | None]:
    """The processor of a setting; `None` for the policy alone."""
    head_beta, beta, min_entropy, min_p = setting
    with contextlib.ExitStack() as stack:
        head = reward_model = None
        if head_beta:
            model = NextTokenRewardModel.from_pretrained(folder / f"steering head-{seed}").attach(policy)
            head = stack.enter_context(steering(policy, [(model, head_beta)], top_k=TOP_K))
        if beta:
            model = AutoModelForSequenceClassification.from_pretrained(folder / f"siblings-{seed}", dtype="float32")
            config = RewardGuidanceConfig(beta, TOP_K, min_p=min_p or None, min_entropy=min_entropy or None)
            reward_model = RewardGuidedLogitsProcessor(model, guidance_config=config)
        yield Cascade(head, reward_model) if head or reward_model else None


def training_prompts() -> list[str]:
    """Ninety-six of the prompts that the models were trained on."""
    prompts = prompts_of_pairs()
    return prompts[:: len(prompts) // 96][:96]


def file_of(folder: Path, prompts: str, seed: int, setting: Setting) -> Path:
    """The file of samples. Siblings at every step on held-out prompts are those of benchmarks/heads/frontier.py."""
    if prompts == "held_out" and setting == POLICY:
        return folder / f"samples-policy-{seed}-0.json"
    if prompts == "held_out" and setting in EVERY_STEP:
        return folder / f"samples-siblings-{seed}-{setting[1]:g}.json"
    return folder / f"cascade-{prompts}-{seed}-{'-'.join(f'{value:g}' for value in setting)}.json"


def draw(folder: Path, name: str, seeds: list[int], settings: list[Setting], number: int | None) -> None:
    policy, tokenizer = load_policy()
    prompts = (training_prompts() if name == "training" else held_out_prompts())[:number]
    for seed in seeds:
        for setting in [POLICY, *EVERY_STEP, *settings]:
            file = file_of(folder, name, seed, setting)
            if file.exists():
                continue
            with cascade(policy, folder, seed, setting) as processor:
                result = sample(policy, tokenizer, prompts, processor, seed)
                reward_model = None if processor is None else processor.reward_model
                tokens = 0 if reward_model is None else reward_model.stats.reward_model_tokens
            result["reward_model_tokens"] = tokens / sum(map(len, result["ids"]))  # prompts and padding included
            file.write_text(json.dumps({"seed": seed, "setting": setting, **result}), encoding="utf-8")
            gold, kl = np.mean(result["gold"]), np.mean(result["kl"])
            print(f"{file.stem}: gold {gold:.3f} kl {kl:.2f} tokens {result['reward_model_tokens']:.1f}", flush=True)


def report(folder: Path, name: str, seeds: list[int], settings: list[Setting], output: Path | None) -> None:
    """The gain in gold reward of each setting, next to that of siblings at every step at equal divergence."""
    rows = []
    for setting in settings:
        per_seed, gains = [], []
        for seed in seeds:
            own = load(folder, name, seed, setting)
            plain = np.array(load(folder, name, seed, POLICY)["gold"])
            full = [load(folder, name, seed, every) for every in EVERY_STEP]
            points = [FrontierPoint(float(np.mean(run["kl"])), run["gold"]) for run in full]
            kl = float(np.mean(own["kl"]))
            at_equal = at_divergence([FrontierPoint(0.0, plain.tolist()), *points], kl)
            if at_equal is None:
                raise SystemExit(f"{setting} diverges by {kl:.2f} nats, further than siblings do: lower its betas.")
            gains.append(np.array(at_equal) - plain)
            per_seed.append(np.array(own["gold"]) - plain)
        gain, full_gain = np.mean(per_seed, axis=0), np.mean(gains, axis=0)
        runs = [load(folder, name, seed, setting) for seed in seeds]
        rows.append(
            {
                "setting": setting,
                "kl": float(np.mean([run["kl"] for run in runs])),
                "gain": estimate(gain),
                "gain of siblings at equal kl": estimate(full_gain),
                "difference": estimate(gain - full_gain),
                "kept": float(gain.mean() / full_gain.mean()),
                "reward_model_tokens": float(np.mean([run["reward_model_tokens"] for run in runs])),
                "distinct_2": float(np.mean([distinct_2(run["texts"]) for run in runs])),
            }
        )
        print(rows[-1])
    print(record(f"cascade_{name}", {"seeds": seeds, "max_new_tokens": MAX_NEW_TOKENS, "top_k": TOP_K}, rows, output))


def load(folder: Path, name: str, seed: int, setting: Setting) -> dict[str, Any]:
    return json.loads(file_of(folder, name, seed, setting).read_text(encoding="utf-8"))


def clock(
    folder: Path, seed: int, settings: list[Setting], batches: list[int], rounds: int, output: Path | None
) -> None:
    """The reward model's time per step: a step of each setting minus an unguided step, within a round."""
    policy, tokenizer = load_policy()
    rows = []
    with contextlib.ExitStack() as stack:
        ways = {setting: stack.enter_context(cascade(policy, folder, seed, setting))
                for setting in [POLICY, (0, 1.0, 0, 0), *settings]}  # fmt: skip
        for batch in batches:
            times: dict[Setting, list[float]] = {setting: [] for setting in ways}
            for turn in range(rounds + 1):
                inputs = encode_prompts(tokenizer, training_prompts()[turn * batch : (turn + 1) * batch])
                for setting, processor in ways.items():
                    if processor is not None:
                        processor.reset(inputs["attention_mask"])
                    torch.manual_seed(turn)
                    start = time.perf_counter()
                    policy.generate(
                        **inputs,
                        do_sample=True,
                        top_k=TOP_K,
                        min_new_tokens=MAX_NEW_TOKENS,
                        max_new_tokens=MAX_NEW_TOKENS,
                        logits_processor=[] if processor is None else [processor],
                    )
                    if turn:
                        times[setting].append(1000 * (time.perf_counter() - start) / MAX_NEW_TOKENS)
            plain, full = times[POLICY], times[0, 1.0, 0, 0]
            for setting in settings:
                shares = [(own - p) / (f - p) for own, p, f in zip(times[setting], plain, full, strict=True)]
                row = {"batch": batch, "setting": setting, "plain_ms": statistics.median(plain)}
                row |= {"siblings_ms": statistics.median(full), "ms": statistics.median(times[setting])}
                row |= {"share_of_reward_model_time": statistics.median(shares), "range": [min(shares), max(shares)]}
                rows.append(row)
                print(row, flush=True)
    print(record("cascade_time", {"rounds": rounds, "new_tokens": MAX_NEW_TOKENS, "seed": seed}, rows, output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["sample", "report", "time"])
    parser.add_argument("--folder", type=Path, required=True, help="the folder of benchmarks.heads.frontier")
    parser.add_argument("--prompts", choices=["training", "held_out"], default="training")
    parser.add_argument("--settings", nargs="+", required=True, help="head_beta,beta,min_entropy,min_p")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--number", type=int, help="of prompts (default: all)")
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    args = parser.parse_args()
    settings: list[Any] = [tuple(map(float, text.split(","))) for text in args.settings]
    if args.stage == "sample":
        draw(args.folder, args.prompts, args.seeds, settings, args.number)
    elif args.stage == "report":
        report(args.folder, args.prompts, args.seeds, settings, args.output)
    else:
        clock(args.folder, args.seeds[0], settings, args.batches, args.rounds, args.output)


if __name__ == "__main__":
    main()
