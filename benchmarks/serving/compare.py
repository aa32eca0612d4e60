"""Does guided generation on vLLM choose the same tokens as in transformers, and how fast is each?

    python -m benchmarks.serving.compare equality --policy NAME --reward_model FOLDER
    python -m benchmarks.serving.compare speed --policy NAME --reward_model 10

Run it where vLLM is installed. Both routes run in one process with the same threads. `--reward_model` is a folder; or
a number of the policy's first layers with a random head (for times alone); or `next-token:10` for the same with a
next-token head; or `head` for a random steering head in the policy's logits. It writes `results/vllm_*.json`.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.random_head import fill_head
from benchmarks.record import ROOT, record, refuse_uncommitted_code
from rgtg_hf import NextTokenRewardModel, RewardGuidedLogitsProcessor, steering
from rgtg_hf.rewards.load import load_reward_model

PROMPTS = ROOT / "rgtg_hf" / "cli" / "demo" / "demo_data" / "prompts.jsonl"
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["equality", "speed"])
    parser.add_argument("--policy", required=True)
    parser.add_argument("--reward_model", required=True)
    parser.add_argument("--dtype", default="float32", help="of the policy and the reward model, in both routes")
    parser.add_argument("--beta", type=float, default=1.5)
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mixed", action="store_true", help="responses of 4 to 48 tokens instead of equal lengths")
    parser.add_argument("--any_commit", action="store_true", help="run with uncommitted changes, to try it out")
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    options = parser.parse_args()
    if not options.any_commit:
        refuse_uncommitted_code("give --any_commit")
    with tempfile.TemporaryDirectory() as folder:
        routes = Routes(options, Path(folder))
        results = (equality if options.what == "equality" else speed)(routes, options)
    settings = {key: value for key, value in vars(options).items() if key not in ("any_commit", "output")}
    settings |= {key: Path(settings[key]).name for key in ("policy", "reward_model")}
    parts = [f"vllm_{options.what}", settings["reward_model"].replace(":", "_")]
    parts += [options.dtype] * (options.dtype != "float32") + ["mixed"] * options.mixed
    name = "_".join(parts)
    print(record(name, settings, results, options.output))
    print(json.dumps(results | {"differences": results.get("differences", [])[:3]}, indent=1))


class Routes:
    """Guided generation in vLLM and in transformers, with the same models."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.tokenizer = AutoTokenizer.from_pretrained(options.policy)
        self.dtype = getattr(torch, options.dtype)
        self.policy = AutoModelForCausalLM.from_pretrained(options.policy, dtype=self.dtype).eval()
        self.is_head = options.reward_model == "head"
        self.reward_model = self._reward_model()
        name = options.reward_model
        if not Path(name).is_dir():
            self.reward_model.save_pretrained(name := str(folder / "reward-model"))
        self.llm = self._engine(name)

    def _reward_model(self) -> Any:
        name, options = self.options.reward_model, self.options
        if Path(name).is_dir():
            return load_reward_model(name, dtype=self.dtype)
        torch.manual_seed(0)
        if self.is_head:
            return fill_head(
                NextTokenRewardModel.from_policy(self.policy, nonlinear=True, context_scale=1.0), std=0.05
            )
        kind, _, layers = name.rpartition(":")
        model = AutoModelForSequenceClassification.from_pretrained(
            options.policy, num_hidden_layers=int(layers), num_labels=1, dtype=self.dtype
        )
        torch.nn.init.normal_(model.score.weight, std=0.02)
        return fill_head(NextTokenRewardModel.from_backbone(model), std=0.05).to(self.dtype) if kind else model.eval()

    def _engine(self, name: str) -> Any:
        from vllm import LLM

        settings: dict[str, Any] = (
            {
                "hf_overrides": {"architectures": ["SteeredLlamaForCausalLM"]},
                "additional_config": {"rgtg": {"head": name, "head_beta": self.options.beta}},
            }
            if self.is_head
            else {
                "logits_processors": ["rgtg_hf.serving.vllm:RewardGuidance"],
                "additional_config": {"rgtg": {"reward_model": name, "dtype": self.options.dtype}},
            }
        )
        return LLM(
            self.options.policy,
            dtype=self.options.dtype,
            max_model_len=512,
            max_num_seqs=BATCH,
            enforce_eager=True,
            **settings,
        )

    def in_vllm(self, prompts: list[list[int]], lengths: list[int], guided: bool, ignore_eos: bool) -> list[list[int]]:
        """Responses by vLLM, which runs up to `BATCH` requests at once."""
        from vllm import SamplingParams

        extra = {"rgtg": {"beta": self.options.beta, "top_k": self.options.top_k}} if guided else None
        if self.is_head:
            extra = None
        params = [
            SamplingParams(temperature=0, max_tokens=length, ignore_eos=ignore_eos, extra_args=extra)
            for length in lengths
        ]
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        return [list(out.outputs[0].token_ids) for out in self.llm.generate(requests, params, use_tqdm=False)]

    def in_transformers(
        self, prompts: list[list[int]], length: int, guided: bool, ignore_eos: bool, **extra: Any
    ) -> Any:
        """The output of generate() for one padded batch."""
        padded = self.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        arguments = dict(
            do_sample=False, max_new_tokens=length, pad_token_id=self.tokenizer.pad_token_id, **padded, **extra
        )
        if ignore_eos:
            arguments["eos_token_id"] = None
        if not guided:
            return self.policy.generate(**arguments)
        if self.is_head:
            with steering(self.policy, [(self.reward_model, self.options.beta)], top_k=0) as processor:
                return self.policy.generate(logits_processor=[processor], **arguments)
        processor = RewardGuidedLogitsProcessor(
            self.reward_model,
            self.options.beta,
            self.options.top_k,
            attention_mask=padded["attention_mask"],
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return self.policy.generate(logits_processor=[processor], **arguments)


def equality(routes: Routes, options: argparse.Namespace) -> dict[str, Any]:
    """Compares greedy responses of both routes, with the gap in score where two responses differ."""
    prompts = chat_prompts(routes.tokenizer, options.prompts)
    by_vllm = routes.in_vllm(prompts, [options.new_tokens] * len(prompts), guided=True, ignore_eos=False)
    equal, differences, gaps = 0, [], []
    for start in range(0, len(prompts), BATCH):
        some = prompts[start : start + BATCH]
        output = routes.in_transformers(
            some, options.new_tokens, guided=True, ignore_eos=False, output_scores=True, return_dict_in_generate=True
        )
        width = max(map(len, some))
        for row, theirs in enumerate(by_vllm[start : start + BATCH]):
            ours = output.sequences[row, width:].tolist()
            end = ours.index(routes.tokenizer.eos_token_id) + 1 if routes.tokenizer.eos_token_id in ours else len(ours)
            ours = ours[:end]
            scores = [step[row].float() for step in output.scores[:end]]
            gaps += [float(top[0] - top[1]) for top in (step.topk(2).values for step in scores)]
            place = next((i for i, (a, b) in enumerate(itertools.zip_longest(ours, theirs)) if a != b), None)
            if place is None:
                equal += 1
                continue
            differences.append(
                {
                    "prompt": start + row,
                    "token": place,
                    "transformers": routes.tokenizer.decode([ours[place]]),
                    "vllm": routes.tokenizer.decode([theirs[place]]),
                    "ahead_nats": float(scores[place][ours[place]] - scores[place][theirs[place]]),
                }
            )
    return {
        "prompts": len(prompts),
        "equal": equal,
        "share_equal": equal / len(prompts),
        "differences": differences,
        "tokens": len(gaps),
        "median_ahead_nats": statistics.median(gaps),
        "steps_ahead_by_less_than_1e-3_nats": sum(gap < 1e-3 for gap in gaps),
    }


def speed(routes: Routes, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of all ways. They take turns within each round."""
    chance = random.Random(0)
    count = options.prompts if options.mixed else BATCH
    prompts = chat_prompts(routes.tokenizer, count)
    lengths = [chance.randrange(4, 49) if options.mixed else options.new_tokens for _ in prompts]

    def transformers_route(guided: bool) -> None:
        for start in range(0, count, BATCH):  # a batch runs until its longest response is done
            part = slice(start, start + BATCH)
            routes.in_transformers(prompts[part], max(lengths[part]), guided, ignore_eos=True)

    ways = {
        "transformers, guided": lambda: transformers_route(True),
        "vllm, guided": lambda: routes.in_vllm(prompts, lengths, guided=True, ignore_eos=True),
    }
    if not options.mixed:
        ways["transformers, unguided"] = lambda: transformers_route(False)
    if not routes.is_head:
        ways["vllm, unguided"] = lambda: routes.in_vllm(prompts, lengths, guided=False, ignore_eos=True)
    routes.in_vllm(prompts[:BATCH], [4] * BATCH, guided=True, ignore_eos=True)  # the first call is slow
    routes.in_transformers(prompts[:BATCH], 4, guided=True, ignore_eos=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            gc.collect()
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    times = {
        "guided, vllm over transformers": ratios(seconds["transformers, guided"], seconds["vllm, guided"]),
    }
    if "vllm, unguided" in ways:
        times["vllm, guided over unguided"] = ratios(seconds["vllm, guided"], seconds["vllm, unguided"])
    return {
        "requests": count,
        "tokens": sum(lengths),
        "tokens_per_second": {name: sum(lengths) / statistics.median(times) for name, times in seconds.items()},
        "ratio_of_times": times,
        "seconds": seconds,
    }


def ratios(over: list[float], under: list[float]) -> dict[str, float]:
    """The ratios within each round: median, smallest and largest."""
    each = [a / b for a, b in zip(over, under, strict=True)]
    return {"median": statistics.median(each), "smallest": min(each), "largest": max(each)}


def chat_prompts(tokenizer: Any, count: int) -> list[list[int]]:
    """The ids of the demo's first prompts, as chats."""
    rows = [json.loads(line)["prompt"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()[:count]]
    assert len(rows) == count
    chats = [[{"role": "user", "content": row}] for row in rows]
    return [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]


if __name__ == "__main__":
    main()
