"""What does a search cost, next to plain sampling of as many rows, and how much reward does it find?

    python -m benchmarks.search.cost --reward_model outputs/demo/reward_model

All ways take turns, round by round, so that other work on the machine affects them alike. Figures are medians over
rounds of ratios within a round. Every round has its own seed and its own prompts, from the demo's evaluation prompts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from benchmarks.models import load_policy
from benchmarks.record import record
from rgtg_hf import RewardGuidedLogitsProcessor, reward_guided_generate
from rgtg_hf.cli.demo.demo_rows import evaluation_prompts
from rgtg_hf.cli.prompt_files import encode_prompts
from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.evaluation.divergence import response_mask
from rgtg_hf.evaluation.sampling import end_token_ids
from rgtg_hf.rewards.load import load_reward_model
from rgtg_hf.rewards.sequence_rewards import sequence_rewards

SEARCHES = {
    "best of 4 by blocks": {"search": "best", "num_rows": 4},
    "4 particles": {"search": "resample", "num_rows": 4},
    "halving from 16": {"search": "halve", "num_rows": 16},
    "best of 16": {"search": "none", "num_rows": 16},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--reward_model", type=Path, required=True, help="a prefix reward model with the demo's tokens"
    )
    parser.add_argument("--prompts", type=int, default=4, help="prompts of a round")
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--block_size", type=int, default=8)
    parser.add_argument("--beta", type=float, default=2.0, help="for PARGS and particles")
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    options = parser.parse_args()
    policy, tokenizer = load_policy()
    reward_model = load_reward_model(str(options.reward_model), dtype="float32")
    prompts = evaluation_prompts()
    results: dict[str, list[dict[str, float]]] = {}
    for number in range(options.rounds):
        chosen = [prompts[(number * options.prompts + i) % len(prompts)] for i in range(options.prompts)]
        inputs = encode_prompts(tokenizer, chosen)
        for name, run in ways(policy, tokenizer, reward_model, inputs, options).items():
            set_seed(number)
            start = time.perf_counter()
            with torch.inference_mode():
                output = run()
            seconds = time.perf_counter() - start
            results.setdefault(name, []).append({"seconds": seconds, **measured(policy, reward_model, inputs, output)})
            print(f"round {number}, {name}: {results[name][-1]}", flush=True)
    summary = {}
    for name, found in results.items():
        ratios = [
            one["seconds"] / plain["seconds"] for one, plain in zip(found, results["plain, 4 rows"], strict=True)
        ]
        summary[name] = {
            "seconds_over_plain": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
            "reward": statistics.mean(one["reward"] for one in found),
            "policy_tokens": statistics.mean(one["policy_tokens"] for one in found),
        }
        print(name, summary[name])
    record("search", vars(options), {"summary": summary, "rounds": results}, options.output)


def ways(policy: Any, tokenizer: Any, reward_model: Any, inputs: Any, options: Any) -> dict[str, Callable[[], Any]]:
    """What is timed: plain sampling of 4 rows per prompt, PARGS, and the searches."""
    shared = {
        **inputs,
        "max_new_tokens": options.new_tokens,
        "do_sample": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "pad_token_id": tokenizer.pad_token_id,
    }
    guidance = {"beta": options.beta, "top_k": options.top_k}
    processor = partial(
        RewardGuidedLogitsProcessor, reward_model, **guidance, attention_mask=inputs["attention_mask"],
        pad_token_id=tokenizer.pad_token_id, eos_token_id=end_token_ids(policy),
    )  # fmt: skip
    searched = partial(
        policy.generate, **shared, **guidance, custom_generate=reward_guided_generate, reward_model=reward_model,
        block_size=options.block_size, return_dict_in_generate=True,
    )  # fmt: skip
    return {
        "plain, 4 rows": lambda: policy.generate(**shared, top_k=options.top_k, num_return_sequences=4),
        "PARGS": lambda: policy.generate(**shared, top_k=0, logits_processor=[processor()]),
        **{name: partial(searched, **settings) for name, settings in SEARCHES.items()},
    }


def measured(policy: Any, reward_model: Any, inputs: Any, output: Any) -> dict[str, float]:
    """The mean reward r(x, y) - r(x) of the responses, and the tokens that the policy wrote for them."""
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    copies, width = len(sequences) // len(inputs["input_ids"]), inputs["input_ids"].shape[1]
    own = kept_ids(inputs["input_ids"], inputs["attention_mask"])
    prompts = [prompt for prompt in own for _ in range(copies)]
    kept = response_mask(sequences[:, width:], end_token_ids(policy))
    responses = kept_ids(sequences[:, width:], kept)
    ends = sequence_rewards(reward_model, [one + own for one, own in zip(prompts, responses, strict=True)])
    starts = sequence_rewards(reward_model, prompts)
    gains = [end - start for end, start in zip(ends, starts, strict=True)]
    written = getattr(output, "policy_tokens", None) or sum(map(len, responses))
    return {"reward": statistics.mean(gains), "policy_tokens": written}


if __name__ == "__main__":
    main()
