"""What do guided requests cost a server with many clients, and is anything lost or mixed up?

    python -m benchmarks.serving.load --policy NAME --reward_model FOLDER

Run it where vLLM is installed. A server with guidance, and one without, are started in turn and get the same requests
from 1, 8 and 32 clients: unguided ones, guided ones, and a mix in which clients also hang up early and send prompts
that are too long. Every answer is compared with the one that transformers gives to its prompt alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.record import ROOT, record, refuse_uncommitted_code
from benchmarks.serving.compare import chat_prompts
from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.rewards.load import load_reward_model

CLIENTS = (1, 8, 32)
BETA, TOP_K, NEW_TOKENS, MAX_LENGTH, AT_ONCE = 1.5, 10, 32, 256, 32
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


@dataclass
class Request:
    """A request, and what it is for: an `answer`, to be `cancelled`, or to be `refused`."""

    prompt: list[int]
    guided: bool
    kind: str = "answer"


@dataclass
class Load:
    """What came of some requests."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    answers: dict[int, list[int]] = field(default_factory=dict)
    cancelled: int = 0
    refused: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", required=True)
    parser.add_argument("--reward_model", required=True)
    parser.add_argument("--requests", type=int, default=96, help="of each load with more than one client")
    parser.add_argument("--any_commit", action="store_true", help="run with uncommitted changes, to try it out")
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    options = parser.parse_args()
    if not options.any_commit:
        refuse_uncommitted_code("give --any_commit")
    tokenizer = AutoTokenizer.from_pretrained(options.policy)
    prompts = chat_prompts(tokenizer, options.requests)
    expected = {guided: alone(options, tokenizer, prompts, guided) for guided in (False, True)}
    rows: list[dict[str, Any]] = []
    for plugin in (False, True):
        with server(options, plugin) as address:
            for clients in CLIENTS:
                some = prompts[: max(8, options.requests // 4)] if clients == 1 else prompts
                for name, requests in loads(some, plugin).items():
                    load = asyncio.run(send(address, options.policy, requests, clients))
                    rows.append(summary(name, clients, plugin, requests, load, expected))
                    print(json.dumps(rows[-1]), flush=True)
    settings = {
        "policy": Path(options.policy),
        "reward_model": Path(options.reward_model),
        "beta": BETA,
        "top_k": TOP_K,
    }
    settings |= {"new_tokens": NEW_TOKENS, "max_model_len": MAX_LENGTH, "max_num_seqs": AT_ONCE}
    results = {"rows": rows, "transformers": transformers_speed(options, tokenizer, prompts)}
    print(record("vllm_load", settings | {"requests": options.requests}, results, options.output))


def loads(prompts: Sequence[list[int]], plugin: bool) -> dict[str, list[Request]]:
    """The kinds of load that a server is put under."""
    unguided = {"unguided": [Request(prompt, False) for prompt in prompts]}
    if not plugin:
        return unguided
    mixed = []
    for place, prompt in enumerate(prompts):
        kind = {3: "cancelled", 7: "refused"}.get(place % 8, "answer")
        mixed.append(Request(prompt * (40 if kind == "refused" else 1), place % 2 == 0 or kind == "cancelled", kind))
    return unguided | {"guided": [Request(prompt, True) for prompt in prompts], "mixed": mixed}


@contextmanager
def server(options: argparse.Namespace, plugin: bool) -> Iterator[str]:
    """The address of a server that runs within the block."""
    port = 8123
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", options.policy]
    command += ["--dtype", "float32", "--max-model-len", str(MAX_LENGTH), "--max-num-seqs", str(AT_ONCE)]
    command += ["--enforce-eager", "--no-enable-prefix-caching", "--port", str(port)]
    if plugin:
        own = {"rgtg": {"reward_model": options.reward_model, "dtype": "float32", "cache_gib": 8}}
        command += [
            "--logits-processors",
            "rgtg_hf.serving.vllm:RewardGuidance",
            "--additional-config",
            json.dumps(own),
        ]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | ENVIRONMENT, cwd=ROOT)
        try:
            while not _is_healthy(address):
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(log.read().decode()[-3000:])
                time.sleep(1)
            yield address
        finally:
            process.terminate()
            process.wait(60)


def _is_healthy(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health").status_code == 200
    except httpx.TransportError:
        return False


async def send(address: str, policy: str, requests: Sequence[Request], clients: int) -> Load:
    """Sends the requests by some clients, each of which waits for its answer before it sends the next."""

    async def client(http: httpx.AsyncClient, queue: list[tuple[int, Request]], load: Load) -> None:
        while queue:
            place, request = queue.pop()
            body = {"model": policy, "prompt": request.prompt, "max_tokens": NEW_TOKENS, "temperature": 0}
            body |= {"ignore_eos": True, "return_token_ids": True}
            if request.guided:
                body["vllm_xargs"] = {"rgtg_beta": BETA, "rgtg_top_k": TOP_K}
            await _one(http, place, request, body, load)

    async with httpx.AsyncClient(base_url=address, timeout=600) as http:
        await client(http, list(enumerate(requests[:2])), Load())  # the first requests are slow
        queue, load = list(enumerate(requests))[::-1], Load()
        began = time.perf_counter()
        await asyncio.gather(*(client(http, queue, load) for _ in range(clients)))
        load.seconds = time.perf_counter() - began
    return load


async def _one(http: httpx.AsyncClient, place: int, request: Request, body: dict[str, Any], load: Load) -> None:
    began = time.perf_counter()
    if request.kind == "cancelled":
        async with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as stream:
            async for _ in stream.aiter_lines():
                load.cancelled += 1
                return  # which hangs up
    answer = await http.post("/v1/completions", json=body)
    if request.kind == "refused":
        load.refused += answer.status_code == 400
    elif answer.status_code == 200:
        load.answers[place] = answer.json()["choices"][0]["token_ids"]
        load.latencies.append(time.perf_counter() - began)


def summary(
    name: str,
    clients: int,
    plugin: bool,
    requests: Sequence[Request],
    load: Load,
    expected: dict[bool, list[list[int]]],
) -> dict[str, Any]:
    """The figures of a load."""
    kinds = [request.kind for request in requests]
    equal = sum(ids == expected[requests[place].guided][place] for place, ids in load.answers.items())
    latencies = sorted(load.latencies)
    return {
        "load": name,
        "clients": clients,
        "server": "with guidance" if plugin else "plain",
        "requests": len(requests),
        "answers": len(load.answers),
        "equal to the answer alone": equal,
        "lost": kinds.count("answer") - len(load.answers),
        "cancelled": load.cancelled,
        "refused": load.refused,
        "tokens_per_s": sum(map(len, load.answers.values())) / load.seconds,
        "latency_median_s": statistics.median(latencies),
        "latency_95_s": latencies[int(0.95 * (len(latencies) - 1))],
    }


def alone(options: argparse.Namespace, tokenizer: Any, prompts: Sequence[list[int]], guided: bool) -> list[list[int]]:
    """The answer to each prompt by transformers, one at a time."""
    return [_generate(options, tokenizer, [prompt], guided)[0] for prompt in prompts]


def transformers_speed(options: argparse.Namespace, tokenizer: Any, prompts: Sequence[list[int]]) -> dict[str, float]:
    """Tokens per second of guided batches in transformers, as large as the numbers of clients."""
    speeds = {}
    for size in CLIENTS:
        some = list(prompts[:size])
        _generate(options, tokenizer, some, True)
        began = time.perf_counter()
        for _ in range(2):
            _generate(options, tokenizer, some, True)
        speeds[str(size)] = 2 * size * NEW_TOKENS / (time.perf_counter() - began)
    return speeds


_models: dict[str, Any] = {}


def _generate(options: argparse.Namespace, tokenizer: Any, prompts: list[list[int]], guided: bool) -> list[list[int]]:
    if not _models:
        _models["policy"] = AutoModelForCausalLM.from_pretrained(options.policy, dtype=torch.float32).eval()
        _models["reward"] = load_reward_model(options.reward_model, dtype=torch.float32)
    padded = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    guides = []
    if guided:
        reads = {"attention_mask": padded["attention_mask"], "pad_token_id": tokenizer.pad_token_id}
        guides.append(RewardGuidedLogitsProcessor(_models["reward"], BETA, TOP_K, **reads))
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": None}
    settings["pad_token_id"] = tokenizer.pad_token_id
    ids = _models["policy"].generate(**padded, logits_processor=guides, **settings)
    return ids[:, padded["input_ids"].shape[1] :].tolist()


if __name__ == "__main__":
    main()
