"""What does a step with a steering head or a next-token reward model cost, next to an unguided step of the same run?

    python -m benchmarks.heads.speed

The ways take turns in every round, so that other work on the machine affects them alike. The time of a step is the
difference between a long and a short generation, which removes the prompt's part. Figures are medians over rounds of
the ratio to the unguided step of the same round, by the processor's clock and by the wall clock. Other work disturbs
the processor's clock least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from benchmarks.models import load_policy
from benchmarks.random_head import fill_head
from benchmarks.record import record
from rgtg_hf import NextTokenRewardModel, RewardGuidedLogitsProcessor, steering
from rgtg_hf.cli.demo.demo_policy import demo_policy_path
from rgtg_hf.compat import cache_argument
from rgtg_hf.training.models import load_for_training

SHORT, LONG = 4, 24


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def step_time(generate: Callable[[int], Any]) -> tuple[float, float]:
    """Wall and processor seconds of one step."""
    long, short = timed(lambda: generate(LONG)), timed(lambda: generate(SHORT))
    return tuple((a - b) / (LONG - SHORT) for a, b in zip(long, short, strict=True))  # type: ignore[return-value]


@torch.inference_mode()
def read_tokens(model: NextTokenRewardModel, ids: torch.Tensor, steps: int) -> None:
    """The least that a reward model must read: its prompt, then one token per step."""
    shared = {cache_argument(model.backbone.forward): DynamicCache(), "use_cache": True}
    model.backbone(input_ids=ids, **shared)
    for _ in range(steps):
        model.backbone(input_ids=ids[:, -1:], **shared)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layers", type=int, default=10, help="layers of the next-token reward model's own backbone")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompts", type=int, nargs="+", default=[32, 256])
    options = parser.parse_args()
    policy, _ = load_policy()
    torch.manual_seed(0)
    heads = [fill_head(NextTokenRewardModel.from_policy(policy)) for _ in range(4)]
    own = fill_head(NextTokenRewardModel.from_backbone(load_for_training(demo_policy_path(), options.layers)))
    results = []
    for batch in options.batches:
        for prompt in options.prompts:
            ids = torch.randint(100, 40000, (batch, prompt), generator=torch.Generator().manual_seed(0))
            processor = RewardGuidedLogitsProcessor(own, pad_token_id=0)

            def generate(length, processors=(), ids=ids):
                return policy.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    min_new_tokens=length,
                    max_new_tokens=length,
                    logits_processor=list(processors),
                )

            def steered(count, length, generate=generate):
                with steering(policy, [(head, 1.0) for head in heads[:count]]) as processor:
                    generate(length, [processor])

            def next_token(length, generate=generate, processor=processor):
                processor.reset()
                generate(length, [processor])

            ways: dict[str, Callable[[int], Any]] = {
                "plain": generate,
                "one head": lambda length, steered=steered: steered(1, length),
                "four heads": lambda length, steered=steered: steered(4, length),
                "reward-model token": lambda length, ids=ids: read_tokens(own, ids, length),
                "next-token model": next_token,
            }
            for run in ways.values():
                run(2)
            rounds = [{way: step_time(run) for way, run in ways.items()} for _ in range(options.rounds)]
            for clock, name in enumerate(("wall", "cpu")):
                row: dict[str, Any] = {"batch": batch, "prompt": prompt, "clock": name}
                for way in ways:
                    row[f"{way}, ms"] = 1000 * statistics.median(times[way][clock] for times in rounds)
                for way in ("one head", "four heads"):
                    row[f"{way} / plain"] = statistics.median(t[way][clock] / t["plain"][clock] for t in rounds)
                row["next-token model / (plain + reward-model token)"] = statistics.median(
                    t["next-token model"][clock] / (t["plain"][clock] + t["reward-model token"][clock]) for t in rounds
                )
                results.append(row)
                print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
            settings = {"rounds": options.rounds, "layers": options.layers}
            path = record("heads_speed", settings, results, options.output)  # a run that is stopped keeps this
    print(path)


if __name__ == "__main__":
    main()
