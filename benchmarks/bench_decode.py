"""What does a guided step cost, against a step of plain generate()?

    python benchmarks/bench_decode.py --model NAME --num_layers 10 --batch 1 8 --prompt 256

All ways are measured side by side in one run, one repeat of each in turn, so that all meet the same machine. A step's
time is that of a greedy generate() of `--steps` tokens less that of one token, divided by the steps between, so that
reading the prompt does not count. Whole sequences, which cost k (prompt + t) tokens per row and step, are timed over a
single step and repeat. The reward model is the policy's own first layers with a random head: its weights do not matter
here.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from record import record
from transformers import AutoModelForCausalLM

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from rgtg_hf.training.models import load_reward_model

WAYS = ("plain", "tree", "expand", "reference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the policy's checkpoint")
    parser.add_argument("--num_layers", type=int, nargs="+", default=[10], help="layers of the reward models")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, nargs="+", default=[256], help="tokens per prompt")
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--reference", type=int, default=1, help="largest batch at which whole sequences are timed")
    parser.add_argument("--out", type=Path, help="folder for the result, instead of benchmarks/results")
    args = parser.parse_args()

    policy = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    rows = []
    for num_layers in args.num_layers:
        reward_model = load_reward_model(args.model, num_layers, dtype=torch.float32).eval()
        for batch in args.batch:
            for prompt in args.prompt:
                row = {"num_layers": num_layers, "batch": batch, "prompt": prompt}
                row |= measure(args, policy, reward_model, batch, prompt)
                print(row, flush=True)
                rows.append(row)
    settings = {key: value for key, value in vars(args).items() if key not in {"out", "model"}}
    settings["model"] = Path(args.model).name
    print(record("decode", settings, rows, args.out))


def measure(args: argparse.Namespace, policy: Any, reward_model: Any, batch: int, prompt: int) -> dict[str, Any]:
    """Milliseconds per step of each way (median over repeats), and the median ratio to plain of the same repeat."""
    ids = torch.randint(100, policy.config.vocab_size, (batch, prompt), generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {way: [] for way in WAYS if way != "reference"}
    processors = {way: make_processor(args, reward_model, way, ids) for way in WAYS if way != "plain"}
    for repeat in range(args.repeats + 1):
        for way in times:
            seconds = step_seconds(policy, ids, processors.get(way), args.steps)
            if repeat:  # the first round warms up
                times[way].append(seconds)
    if batch <= args.reference:
        # The difference of two and one token is one step; plain's time of a prompt's first step is the same in both.
        times["reference"] = [step_seconds(policy, ids, processors["reference"], 2)]
    medians = {f"{way}_ms": 1000 * statistics.median(values) for way, values in times.items()}
    plain = times["plain"]
    ratios = {
        f"{way}_ratio": statistics.median(
            a / b for a, b in zip(values, plain if len(values) > 1 else [statistics.median(plain)], strict=True)
        )
        for way, values in times.items()
        if way != "plain"
    }
    spread = {f"{way}_ms_spread": [1000 * min(values), 1000 * max(values)] for way, values in times.items()}
    return medians | ratios | spread


def make_processor(args: argparse.Namespace, reward_model: Any, way: str, ids: torch.Tensor) -> Any:
    config = RewardGuidanceConfig(beta=1.0, top_k=args.top_k, scorer=way)
    return RewardGuidedLogitsProcessor(reward_model, guidance_config=config, attention_mask=torch.ones_like(ids))


def step_seconds(policy: Any, ids: torch.Tensor, processor: Any, steps: int) -> float:
    def seconds(tokens: int) -> float:
        if processor is not None:
            processor.reset(attention_mask=torch.ones_like(ids))
        start = time.perf_counter()
        policy.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            logits_processor=[] if processor is None else [processor],
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            eos_token_id=None,
            pad_token_id=0,
        )
        return time.perf_counter() - start

    return (seconds(steps) - seconds(1)) / (steps - 1)


if __name__ == "__main__":
    main()
