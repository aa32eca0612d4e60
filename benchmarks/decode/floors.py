"""How far is a guided step from what the device can do?

    python -m benchmarks.decode.floors --policy 1B --reward_model 1B --batch 1 8 32     # a GPU, less than 4 minutes
    python -m benchmarks.decode.floors --policy 135M --reward_model 135M --batch 1 8    # a CPU

The models have random weights in the shapes of SmolLM2-135M, Llama-3.2-1B and Llama-3.1-8B, so nothing is downloaded.
There are two floors, each the step of unguided generate() plus the bare pass of the reward model:

    eager       generate() with a growing cache; a pass over k siblings by hand
    static      generate() with a static cache, which it compiles on a GPU; the recorded pass of k + 1 tokens, replayed

Within a point all ways take turns, round by round. Figures are medians over rounds of ratios within a round. A look
is a wait of the host for the device; those of a guided step are what it adds to the looks of unguided generate(). They
are counted by the device where it can, otherwise by the operations that would wait for a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from transformers.utils import logging

from benchmarks.decode.ways import HandLoop, Setting, Way, now
from benchmarks.record import RESULTS, record, refuse_uncommitted_code
from rgtg_hf.scoring.row_reader import RowReader
from tests.looks import Looks

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "vocab_size": 256},
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    | {"num_key_value_heads": 3, "vocab_size": 49152},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "vocab_size": 128256},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "vocab_size": 128256},
}
RATIOS = {  # name: what is compared, and the ways whose times are added up below the line
    "siblings / floor": ("siblings", ["plain", "pass"]),
    "head / plain": ("head", ["plain"]),
    "siblings / floor, static": ("siblings, static", ["plain, static", "recorded pass"]),
    "head / plain, static": ("head, static", ["plain, static"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu = torch.cuda.is_available()
    parser.add_argument("--policy", choices=SHAPES, default="1B" if gpu else "135M")
    parser.add_argument("--reward_model", choices=SHAPES, default="1B" if gpu else "135M")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32] if gpu else [1, 8])
    parser.add_argument("--prompt", type=int, default=256, help="tokens per prompt")
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--steps", type=int, default=16, help="steps in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if gpu else "float32")
    parser.add_argument("--name", default="decode_floors", help="name of the result file")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--try", dest="trial", action="store_true", help="record nothing, so changes may be there")
    args = parser.parse_args()
    if not args.trial:
        refuse_uncommitted_code("add --try")
    torch.set_grad_enabled(False)
    logging.set_verbosity_error()
    torch.manual_seed(0)
    settings = {"max_position_embeddings": 8192, "pad_token_id": 0}
    with torch.device(args.device):
        dtype = getattr(torch, args.dtype)
        policy = LlamaForCausalLM(LlamaConfig(**SHAPES[args.policy], **settings)).to(dtype).eval()
        config = LlamaConfig(**SHAPES[args.reward_model], **settings, num_labels=1)
        reward_model = LlamaForSequenceClassification(config).to(dtype).eval()
    points = []
    for batch in args.batch:
        ids = torch.randint(3, 256, (1, args.prompt), device=args.device).repeat(batch, 1)
        ids[:, -1] = torch.arange(3, 3 + batch)
        points.append({"batch": batch} | measure(policy, reward_model, ids, args.top_k, args.steps, args.rounds))
        show(points[-1])
    if not args.trial:
        shown = {name: value for name, value in vars(args).items() if name not in ("name", "output", "trial")}
        print(record(args.name, shown, points, args.output).name)


def measure(policy: Any, reward_model: Any, ids: torch.Tensor, k: int, steps: int, rounds: int) -> dict[str, Any]:
    """Times all ways in turns."""
    eager, static = (Setting(policy, reward_model, ids, k, static_cache=fixed) for fixed in (False, True))
    ways: dict[str, Way] = {
        **eager.ways(["plain", "siblings"]),
        "head": eager.head(),
        "plain, static": static.generate,
        "siblings, static": static.guided(reward_model, scorer="siblings", use_cuda_graph=True),
        "head, static": static.head(),
    }
    loop = HandLoop(eager)
    looks = {name: looks_per_step(way, ids.device) for name, way in ways.items()}  # which warms up, and compiles
    timed = {
        **{name: lambda way=way: way(steps).seconds for name, way in ways.items()},
        "pass": lambda: loop.run(steps).pass_seconds,
        "recorded pass": lambda: recorded_pass(reward_model, ids, k, steps),
    }
    for name in ("pass", "recorded pass"):
        timed[name]()
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, run in timed.items():
            seconds[name].append(statistics.median(run()))
    ratios = {}
    for name, (way, floor) in RATIOS.items():
        own = [one / sum(parts) for one, *parts in zip(seconds[way], *(seconds[part] for part in floor), strict=True)]
        ratios[name] = {"median": statistics.median(own), "range": [min(own), max(own)]}
    return {
        "ms": {name: 1000 * statistics.median(own) for name, own in seconds.items()},
        "ratios": ratios,
        "looks_added_per_step": {
            name: looks[name] - looks["plain, static" if "static" in name else "plain"]
            for name in ways
            if not name.startswith("plain")
        },
    }


def recorded_pass(reward_model: Any, ids: torch.Tensor, k: int, steps: int) -> list[float]:
    """Seconds of the pass that a step of siblings makes, again and again."""
    reader = RowReader(reward_model, use_cuda_graph=True)
    lengths = torch.full((len(ids),), ids.shape[1], device=ids.device)
    candidates = ids[:, :k]
    reader.read(ids, lengths, candidates)
    width = reader.buffer.width_for(ids.shape[1] + 1 + k)
    seconds = []
    for _ in range(steps + 2):
        start = now(ids.device)
        reader.read_ends(ids[:, -1:], lengths, width, candidates)
        seconds.append(now(ids.device) - start)
    return seconds[2:]  # the first ones run as they are, and record


def looks_per_step(way: Way, device: torch.device) -> float:
    """How often the host waits for the device in a step, without what a call costs by itself."""
    few, many = 4, 12
    return (count_looks(way, many, device) - count_looks(way, few, device)) / (many - few)


def count_looks(way: Way, steps: int, device: torch.device) -> int:
    """How often the host waits for the device in so many steps."""
    if device.type != "cuda":
        with Looks() as looks:
            way(steps)
        return looks.count
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            way(steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in caught)


def show(point: dict[str, Any]) -> None:
    """Prints a point."""
    print(f"batch {point['batch']}")
    for name, value in point["ms"].items():
        looks = point["looks_added_per_step"].get(name)
        print(f"    {name:18} {value:8.2f} ms" + ("" if looks is None else f"   {looks:.1f} looks added per step"))
    for name, ratio in point["ratios"].items():
        low, high = ratio["range"]
        print(f"    {name:26} {ratio['median']:.2f} ({low:.2f} to {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
