"""Samples the responses of each method of table.py to the held-out prompts, one file for each setting."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from benchmarks.models import DEVICE, load_policy
from benchmarks.tasks import TASKS, held_out_prompts
from rgtg_hf import NextTokenRewardModel, RewardGuidedLogitsProcessor, steering
from rgtg_hf.cli.demo.demo_rows import training_prompts
from rgtg_hf.cli.prompt_files import encode_prompts
from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.decoding.search_divergence import best_of_n_divergence_bound
from rgtg_hf.evaluation.best_of import best_of_n, search_responses
from rgtg_hf.evaluation.experts import ExpertProcessor
from rgtg_hf.evaluation.sampling import SampledResponses, end_token_ids, prompt_cache, sample_responses
from rgtg_hf.files import write_whole
from rgtg_hf.rewards.sequence_rewards import sequence_rewards

__all__ = ["METHODS", "Sampler"]

# The most important first.
METHODS = ("policy", "pargs", "args", "best_of_n", "dpo", "greedy", "head", "blockwise")
GREEDY = {"pargs_greedy": "prefix", "args_greedy": "full"}
# Strengths of DPO that span the divergences of the others; 1 is DPO itself.
STRENGTHS = {"sentiment": [0.5, 1.0, 2.0, 4.0], "plain": [0.25, 0.5, 1.0]}
HEAD_BETAS = {"sentiment": [1.0, 2.0, 4.5], "plain": [0.5, 1.0, 2.0]}  # nats per unit of reward
BLOCK_SIZE, BLOCKS = 8, 4


@dataclass
class Sampler:
    """Writes the missing pieces of one task and seed.

    Args:
        folder: The folder of the models and the pieces.
        task: Name of the task.
        seed: Seed of the models and of sampling.
        settings: `top_k`, `max_new_tokens`, `prompts` (their number; None for all), `pilot_prompts`, `draws`
            (responses of the policy to each prompt, for best-of-n), `divergences` (target nats per response) and
            `dtype` (of reward models).
        commit: The commit of the code, for the record.
    """

    folder: Path
    task: str
    seed: int
    settings: dict[str, Any]
    commit: str | None

    order: ClassVar[Sequence[str]] = METHODS
    scorers: ClassVar[Sequence[str]] = ("full", "prefix")  # the models by which best-of-n chooses

    def __post_init__(self) -> None:
        for name in ("samples", "pilots"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @cached_property
    def _models(self) -> tuple[Any, Any]:
        return load_policy(DEVICE)

    @cached_property
    def _prompts(self) -> list[str]:
        return held_out_prompts()[: self.settings["prompts"]]

    @cached_property
    def _inputs(self) -> dict[str, Any]:
        return self._encode(self._prompts)

    @property
    def _ids_and_mask(self) -> dict[str, Any]:
        """The batch without its cache."""
        return {name: self._inputs[name] for name in ("input_ids", "attention_mask")}

    @cached_property
    def _prompt_ids(self) -> list[list[int]]:
        return kept_ids(self._inputs["input_ids"], self._inputs["attention_mask"])

    def _encode(self, prompts: list[str]) -> dict[str, Any]:
        """A left-padded batch with the cache of all but its last column, for use by many generations."""
        policy, tokenizer = self._models
        batch = dict(encode_prompts(tokenizer, prompts).to(DEVICE))
        return batch | prompt_cache(policy, batch)

    def _sample(self, inputs: dict[str, Any], processor: Any, seed: int, *, greedy: bool = False) -> SampledResponses:
        policy, tokenizer = self._models
        fresh = copy.deepcopy(inputs)  # the cache grows
        chosen = {name: self.settings[name] for name in ("top_k", "max_new_tokens")}
        return sample_responses(policy, tokenizer, fresh, seed=seed, processor=processor, greedy=greedy, **chosen)

    def run(self, methods: Iterable[str]) -> None:
        """Samples the missing pieces of some methods."""
        for method in self.order:
            if method in methods:
                getattr(self, f"_{method}")()

    # The methods.

    def _policy(self) -> None:
        """Several responses to each prompt. The first is the policy's own, and best-of-n chooses among all."""
        for draw in range(self.settings["draws"]):
            self._keep("policy", draw, lambda draw=draw: self._sample(self._inputs, None, 1000 * self.seed + draw))

    def _greedy(self) -> None:
        self._keep("policy_greedy", 0, lambda: self._sample(self._inputs, None, self.seed, greedy=True))
        for name, kind in GREEDY.items():
            self._sweep(name, kind, slice(1, 2), greedy=True)

    def _pargs(self) -> None:
        self._sweep("pargs", "prefix")

    def _args(self) -> None:
        self._sweep("args", "full")

    def _sweep(self, name: str, kind: str, which: slice = slice(None), *, greedy: bool = False) -> None:
        if (model := self._reward_model(kind)) is None:
            return
        processor = self._processor(model)
        for beta in self._betas(kind, model)[which]:
            self._keep(name, beta, lambda beta=beta: self._guided(processor, beta, greedy=greedy), kind)

    def _processor(self, model: Any) -> RewardGuidedLogitsProcessor:
        """A processor for the held-out prompts, whose beta is set later."""
        mask, top_k = self._inputs["attention_mask"], self.settings["top_k"]
        return RewardGuidedLogitsProcessor(model, 1.0, top_k, attention_mask=mask, **self._special_tokens())

    def _guided(self, processor: Any, beta: float, *, greedy: bool = False) -> SampledResponses:
        # The processor is not reset between betas, because they share the prompts that it has read.
        processor.config.beta = beta
        before = processor.stats.reward_model_tokens
        sampled = self._sample(self._inputs, processor, self.seed, greedy=greedy)
        # The prompts are read once for all betas, but count for each of them.
        prompt_tokens = self._inputs["input_ids"].numel() if before else 0
        counted = processor.stats.reward_model_tokens - before + prompt_tokens
        return replace(sampled, reward_model_tokens=counted)

    def _best_of_n(self) -> None:
        files = [self._file("policy", draw) for draw in range(self.settings["draws"])]
        if not all(file.exists() for file in files):
            return
        draws = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        for kind in self.scorers:
            sizes = [n for n in (2, 4, 8) if n <= len(draws)]
            if all(self._file(f"best_of_n_{kind}", n).exists() for n in sizes):
                continue
            if (model := self._reward_model(kind)) is None:
                continue
            start = clock()
            rewards = [self._rewards(model, draw["ids"]) for draw in draws]
            seconds = clock() - start
            for n in sizes:
                chosen = self._choose(draws[:n], rewards[:n], seconds * n / len(draws))
                self._keep(f"best_of_n_{kind}", n, lambda chosen=chosen: chosen, kind)

    def _rewards(self, model: Any, responses: list[list[int]]) -> list[float]:
        return sequence_rewards(model, [one + own for one, own in zip(self._prompt_ids, responses, strict=True)])

    def _choose(self, draws: list[dict[str, Any]], rewards: list[list[float]], seconds: float) -> SampledResponses:
        n, count = len(draws), len(self._prompts)
        best = [place % n for place in best_of_n([rewards[i][p] for p in range(count) for i in range(n)], n)]
        ids = [draws[i]["ids"][p] for p, i in enumerate(best)]
        read = sum(len(prompt) + len(draw["ids"][p]) for p, prompt in enumerate(self._prompt_ids) for draw in draws)
        return SampledResponses(
            texts=[draws[i]["texts"][p] for p, i in enumerate(best)],
            divergences=[best_of_n_divergence_bound(n)] * count,
            tokens=sum(map(len, ids)),
            seconds=sum(draw["seconds"] for draw in draws) + seconds,
            ids=ids,
            log_likelihoods=[draws[i]["log_likelihoods"][p] for p, i in enumerate(best)],
            reward_model_tokens=read,
        )

    def _blockwise(self) -> None:
        def draw() -> SampledResponses:
            policy, tokenizer = self._models
            inputs = self._ids_and_mask
            chosen = {name: self.settings[name] for name in ("top_k", "max_new_tokens")}
            chosen |= {"search": "best", "n": BLOCKS, "block_size": BLOCK_SIZE, "seed": self.seed}
            return search_responses(policy, tokenizer, inputs, model, **chosen)

        if not self._file("blockwise", BLOCKS).exists() and (model := self._reward_model("prefix")) is not None:
            self._keep("blockwise", BLOCKS, draw, "prefix")

    def _dpo(self) -> None:
        self._sweep_adapter("dpo", "dpo", STRENGTHS[self.task])

    def _sweep_adapter(self, name: str, kind: str, strengths: Sequence[float], **settings: Any) -> None:
        """Samples with the policy under an adapter as the expert."""
        if self._missing(name, strengths) and (adapter := self._saved(kind)) is not None:
            base, _ = load_policy(DEVICE)
            self._sweep_expert(name, PeftModel.from_pretrained(base, adapter), strengths, **settings)

    def _sweep_expert(self, name: str, expert: Any, strengths: Sequence[float], **settings: Any) -> None:
        mask = self._inputs["attention_mask"]
        processor = ExpertProcessor(expert, 1.0, self.settings["top_k"], mask, **settings)
        for strength in self._missing(name, strengths):
            processor.config.beta = strength
            processor.reset(mask)
            self._keep(name, strength, lambda: self._sample(self._inputs, processor, self.seed))

    def _head(self) -> None:
        self._sweep_head("head", "head", HEAD_BETAS[self.task])

    def _sweep_head(self, name: str, kind: str, betas: Sequence[float]) -> None:
        """Samples with a steering head."""
        if (head := self._steering_head(kind)) is None:
            return
        with steering(self._models[0], [(head, 0.0)], top_k=self.settings["top_k"]) as processor:
            for beta in betas:
                processor.betas = [beta]
                self._keep(name, beta, lambda: self._sample(self._inputs, processor, self.seed))

    # Shared by the methods.

    def _reward_model(self, kind: str) -> Any:
        if (saved := self._saved(kind)) is None:
            return None
        loaded = AutoModelForSequenceClassification.from_pretrained(saved, dtype=self.settings["dtype"])
        return loaded.eval().to(DEVICE)

    def _steering_head(self, kind: str) -> NextTokenRewardModel | None:
        if (saved := self._saved(kind)) is None:
            return None
        return NextTokenRewardModel.from_pretrained(saved).attach(self._models[0])

    def _saved(self, kind: str) -> Path | None:
        saved = self.folder / f"{self.task}-{kind}-{self.seed}"
        if not saved.exists():
            print(f"{saved.name} is not trained yet", flush=True)
            return None
        return saved

    def _special_tokens(self) -> dict[str, Any]:
        policy, tokenizer = self._models
        return {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": end_token_ids(policy)}

    def _betas(self, kind: str, model: Any) -> list[float]:
        """The betas that reach the target divergences on training prompts. Reward models differ in scale.

        One unguided generation gives the divergence of every beta along it, because it records the rewards of all
        candidates.
        """
        file = self.folder / "pilots" / f"{self.task}-{kind}-{self.seed}.json"
        if not file.exists():
            inputs = self._encode(training_prompts()[: self.settings["pilot_prompts"]])
            pilot = RewardGuidedLogitsProcessor(
                model,
                1e-6,
                self.settings["top_k"],
                attention_mask=inputs["attention_mask"],
                **self._special_tokens(),
                collect_records=True,
            )
            self._sample(inputs, pilot, self.seed)
            betas = [_beta_for(pilot.stats.records, target) for target in self.settings["divergences"]]
            write_whole(file, json.dumps(betas))
        return json.loads(file.read_text(encoding="utf-8"))

    def _missing(self, method: str, strengths: Sequence[float]) -> list[float]:
        return [strength for strength in strengths if not self._file(method, strength).exists()]

    def _file(self, method: str, strength: float) -> Path:
        task = "any" if method in ("policy", "policy_greedy") else self.task  # the policy is the same for all tasks
        return self.folder / "samples" / f"{task}-{method}-{self.seed}-{strength:.4g}.json"

    def _keep(
        self, method: str, strength: float, draw: Callable[[], SampledResponses], kind: str | None = None
    ) -> None:
        """Samples and writes a piece unless it exists, with the reward of the model that guided it, if any."""
        file = self._file(method, strength)
        if file.exists():
            return
        start = clock()
        sampled = draw()
        if not method.startswith("best_of_n"):
            # The prompts were read before.
            sampled = replace(sampled, seconds=clock() - start)
        record = {
            "method": method,
            "seed": self.seed,
            "strength": strength,
            "commit": self.commit,
            "threads": torch.get_num_threads(),
            **vars(sampled),
        }
        if kind is not None and (model := self._reward_model(kind)) is not None:
            record["steering_reward"] = self._rewards(model, sampled.ids)
        write_whole(file, json.dumps(record, ensure_ascii=False))
        gold = TASKS[self.task].gold(sampled.texts)
        print(
            f"{file.stem:32} gold {sum(gold) / len(gold):7.3f}  kl {sum(sampled.divergences) / len(gold):6.2f}  "
            f"{sampled.seconds:5.0f} s",
            flush=True,
        )


def clock() -> float:
    """Seconds of processor time, which other work disturbs little. On a GPU, seconds."""
    return time.process_time() if DEVICE == "cpu" else time.perf_counter()


def _beta_for(records: list[Any], target: float) -> float:
    """The beta whose divergence per response along the recorded generation is `target`, by bisection."""
    over = torch.stack([record.over for record in records])
    policy = torch.stack([record.policy for record in records]).double()
    rewards = torch.stack([record.increments for record in records]).double().nan_to_num()

    def divergence(beta: float) -> float:
        guided = (policy + beta * rewards).log_softmax(-1)
        return float(((guided.exp() * (guided - policy)).sum(-1) * ~over).sum(0).mean())

    low, high = 1e-3, 1e4
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if divergence(middle) < target else (low, middle)
    return float(f"{math.sqrt(low * high):.4g}")
