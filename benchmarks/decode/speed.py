"""What does a guided step cost, next to unguided generate() and to the least that it could cost?

    python -m benchmarks.decode.speed --policy NAME --reward_models 10 30 --batch 1 8 --prompt 32 256 --top_k 10
    python -m benchmarks.decode.speed --report

A model is the name of a checkpoint or a JSON configuration, which gets random weights. A number among the reward
models is that many first layers of the policy with a random head: weights do not matter here.

    python -m benchmarks.decode.speed --device cuda --dtype bfloat16 \\
        --policy '{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, ...}' --reward_models 8

The ratio to the floor along one long generation, token by token:

    python -m benchmarks.decode.speed --policy NAME --batch 1 --prompt 32 --top_k 10 --new_tokens 1024 --rounds 1 \\
        --ways "hand loop" siblings

Every point of the sweep is a cell with a file of its own in `--cells`, so a sweep that was stopped can continue.
Within a cell all ways take turns, round by round, so that other work on the machine affects them alike. Figures are
medians over rounds of ratios within a round. The floor is the step of unguided generate() plus the bare forward pass
of the reward model over k siblings, both of the same round. `--report` writes benchmarks/results/decode.json, and the
figure and tables in docs/performance.md. It refuses cells that were measured with uncommitted changes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import LlamaForSequenceClassification as LlamaRewardModel
from transformers.utils import logging

from benchmarks.decode.memory import CacheMeter, PeakMeter
from benchmarks.decode.ways import Setting, Steps
from benchmarks.record import ROOT, describe
from rgtg_hf.training.models import load_for_training

STEPS = ["plain", "hand loop", "siblings", "row per candidate", "next-token model", "steering head", "through text"]
WHOLE = ["whole, one by one", "whole, batched"]
LONG, WINDOW = 512, 64  # rounds of this many steps report the ratio for each stretch of this many tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", help="a checkpoint, or a LlamaConfig as JSON")
    parser.add_argument(
        "--reward_models", nargs="+", default=["10"], help="checkpoints, JSON, or numbers of first layers"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--prompt", type=int, nargs="+", default=[32, 256, 1024], help="tokens per prompt")
    parser.add_argument("--top_k", type=int, nargs="+", default=[5, 10, 40])
    parser.add_argument("--new_tokens", type=int, default=64, help="tokens timed in each way, over all rounds")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--ways", nargs="+", default=STEPS, choices=[*STEPS, *WHOLE], help="plain always runs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cells", type=Path, default=ROOT / "outputs" / "decode_speed")
    parser.add_argument("--most", type=int, help="stop after this many cells")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.report:
        from benchmarks.decode.report import report

        report(args.cells)
        return
    torch.set_grad_enabled(False)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    args.cells.mkdir(parents=True, exist_ok=True)
    args.ways = list(dict.fromkeys(["plain", *args.ways]))
    bench = Bench(args)
    points = itertools.product(args.reward_models, args.batch, args.prompt, args.top_k)
    missing = [point for point in points if not bench.file(*point).exists()]
    for point in missing[: args.most]:
        start = time.perf_counter()
        cell = bench.measure(*point)
        bench.file(*point).write_text(json.dumps(cell, indent=2) + "\n", encoding="utf-8")
        print(f"{bench.file(*point).name} in {time.perf_counter() - start:.0f} s")
        for way, row in cell["ways"].items():
            print(f"    {way:18} {row['ms']:8.1f} ms  {row.get('to_floor', 0):.3f} x the floor", flush=True)


class Bench:
    """Measures cells, and loads each model once."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device, self.dtype = torch.device(args.device), getattr(torch, args.dtype)
        self.models: dict[str, Any] = {}
        self.tokenizers: tuple[Any, Any] | None = None
        self.steps = max(1, args.new_tokens // args.rounds)

    def file(self, reward_model: str, batch: int, prompt: int, top_k: int) -> Path:
        """The file of a cell."""
        ways = self.args.ways
        if WHOLE[0] in ways or WHOLE[1] in ways:
            kind = "-".join(way.split()[-1] for way in ways[1:])
        else:
            kind = "all" if set(STEPS) <= set(ways) else "steps"
        name = Path(reward_model).name if not reward_model.startswith("{") else "random"
        if self.steps >= LONG:
            kind = f"{self.steps}-{kind}"
        return self.args.cells / f"{name}-b{batch}-p{prompt}-k{top_k}-{kind}.json"

    def measure(self, reward_model: str, batch: int, prompt: int, top_k: int) -> dict[str, Any]:
        """Measures a cell: all ways take turns."""
        args = self.args
        torch.manual_seed(0)
        setting = Setting(
            self.model("policy"),
            self.model(reward_model),
            self.prompts(batch, prompt),
            top_k,
            *(self.tokenizers or ()),
        )
        names = [way for way in args.ways if way != "through text" or self.tokenizers]
        ways = setting.ways(names)
        rounds: dict[str, list[Steps]] = {name: [] for name in names}
        caches = {}
        for turn in range(args.rounds + 1):
            for name, way in ways.items():
                if turn:
                    rounds[name].append(way(1 if name in WHOLE else self.steps))
                elif name not in WHOLE:  # the first round warms up and measures memory
                    with CacheMeter(setting.reward_model) as cache, PeakMeter(self.device) as peak:
                        way(2)
                    caches[name] = {"cache_mb": cache.megabytes, "peak_mb": peak.megabytes}
            if turn == 1 and set(names) & set(WHOLE):
                break  # these take so long that one round is enough
        rows = summary(rounds)
        for name, row in rows.items():
            row |= caches.get(name, {})
        settings = {"reward_model": short(reward_model), "batch": batch, "prompt": prompt, "top_k": top_k}
        settings |= {"policy": short(args.policy), "device": args.device, "dtype": args.dtype}
        settings |= {"rounds": args.rounds, "steps_per_round": self.steps}
        return settings | {"ways": rows} | describe()

    def model(self, name: str) -> Any:
        """A model, loaded once."""
        if name not in self.models:
            with torch.device(self.device):
                self.models[name] = self.load(name).to(self.device).eval()
        return self.models[name]

    def load(self, name: str) -> Any:
        """Loads the policy, or a reward model by checkpoint, configuration or number of layers."""
        policy = self.args.policy
        random = policy.startswith("{")
        if name == "policy":
            if random:
                return LlamaForCausalLM(LlamaConfig(**json.loads(policy))).to(self.dtype)
            self.tokenizers = make_tokenizers(policy)
            return AutoModelForCausalLM.from_pretrained(policy, dtype=self.dtype)
        settings = {"num_labels": 1, "pad_token_id": 0}
        if name.startswith("{"):
            return LlamaRewardModel(LlamaConfig(**json.loads(name), **settings)).to(self.dtype)
        if random:
            layers = {"num_hidden_layers": int(name)}
            return LlamaRewardModel(LlamaConfig(**json.loads(policy) | layers | settings)).to(self.dtype)
        if name.isdigit():
            return load_for_training(policy, int(name), dtype=self.dtype)
        return load_for_training(name, dtype=self.dtype)

    def prompts(self, batch: int, length: int) -> torch.Tensor:
        """Prompts that share all tokens except the last, shape `[batch, length]`."""
        if self.tokenizers:
            ids = torch.tensor(self.tokenizers[0](documentation())["input_ids"])
            assert len(ids) >= length + batch
        else:
            ids = torch.randint(3, self.model("policy").config.vocab_size, (length + batch,))
        rows = torch.cat([ids[: length - 1].expand(batch, -1), ids[length - 1 : length - 1 + batch, None]], dim=1)
        return rows.to(self.device)


def summary(rounds: dict[str, list[Steps]]) -> dict[str, dict[str, Any]]:
    """Milliseconds and ratios within a round: medians over rounds, with the smallest and the largest."""

    def medians(name: str, part: str = "seconds") -> list[float]:
        return [statistics.median(getattr(steps, part)) for steps in rounds[name]]

    plain = medians("plain")
    bare = None
    if "hand loop" in rounds:
        bare = [a + b for a, b in zip(plain, medians("hand loop", "pass_seconds"), strict=True)]
    rows: dict[str, dict[str, Any]] = {}
    for name in rounds:
        own = medians(name)
        if name in WHOLE:  # only the reward model was timed
            own = [a + b for a, b in zip(own, plain, strict=True)]
        row: dict[str, Any] = {"ms": 1000 * statistics.median(own), "ms_range": [1000 * min(own), 1000 * max(own)]}
        for key, base in (("to_plain", plain), ("to_floor", bare)):
            if base is not None:
                ratios = [a / b for a, b in zip(own, base, strict=True)]
                row |= {key: statistics.median(ratios), f"{key}_range": [min(ratios), max(ratios)]}
        if bare is not None and len(rounds[name][0].seconds) >= LONG:
            row["to_floor_by_length"] = by_length(rounds, name)
        row["reward_model_tokens"] = statistics.median(steps.tokens for steps in rounds[name])
        rows[name] = row
    if bare is not None:
        rows["floor"] = {"ms": 1000 * statistics.median(bare), "ms_range": [1000 * min(bare), 1000 * max(bare)]}
    return rows


def by_length(rounds: dict[str, list[Steps]], name: str) -> list[dict[str, float]]:
    """The ratio to the floor in stretches of 64 tokens: medians over rounds of ratios of medians."""
    rows = []
    for start in range(0, len(rounds[name][0].seconds) - WINDOW + 1, WINDOW):
        ratios = []
        for plain, hand, own in zip(rounds["plain"], rounds["hand loop"], rounds[name], strict=True):
            stretch = slice(start, start + WINDOW)
            parts = (own.seconds, plain.seconds, hand.pass_seconds)
            time_, base, bare = (statistics.median(part[stretch]) for part in parts)
            ratios.append(time_ / (base + bare))
        rows.append({"tokens": start + WINDOW, "to_floor": statistics.median(ratios)})
    return rows


def make_tokenizers(policy: str) -> tuple[Any, Any]:
    """The policy's tokenizer, and another one for the reward model, trained on this documentation."""
    tokenizer = AutoTokenizer.from_pretrained(policy)
    lines = documentation().splitlines(keepends=True)
    return tokenizer, tokenizer.train_new_from_iterator(lines, vocab_size=8000, show_progress=False)


def documentation() -> str:
    pages = sorted((ROOT / "docs").glob("*.md"))
    return "\n".join(page.read_text(encoding="utf-8") for page in pages)


def short(name: str) -> Any:
    return json.loads(name) if name.startswith("{") else int(name) if name.isdigit() else Path(name).name


if __name__ == "__main__":
    main()
