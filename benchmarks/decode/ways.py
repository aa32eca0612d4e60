"""The ways of decoding that speed.py times, each as a function from a number of steps to seconds per step.

Prompts are real text, so that another tokenizer can read them too. The rows of a batch share their prompt up to its
last token, and each way reads the prompt once for all rows. Only steps are timed. They cost the same for any prompt,
and no way takes advantage of the shared prompt in them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, StoppingCriteria

from benchmarks.random_head import fill_head
from rgtg_hf import NextTokenRewardModel, RewardGuidanceConfig, RewardGuidedLogitsProcessor, steering
from rgtg_hf.compat import cache_argument
from rgtg_hf.rewards.parts import find_backbone, find_score_head
from rgtg_hf.scoring.scorer import PrefixBatch

Way = Callable[[int], "Steps"]


@dataclass
class Steps:
    """The cost of some steps.

    Attributes:
        seconds: Seconds of each step.
        pass_seconds: Seconds of the reward model's forward pass in each step, where it was timed by itself.
        tokens: Reward-model tokens computed per step and row.
    """

    seconds: list[float]
    pass_seconds: list[float] = field(default_factory=list)
    tokens: float = 0.0


class Clock(StoppingCriteria):
    """Notes when each step of generate() ends."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Never stops a row."""
        self.times.append(now(self.device))
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass
class Setting:
    """One point of the sweep. The policy has read the prompts except their last tokens, unless its cache is static."""

    policy: Any
    reward_model: Any
    ids: Tensor
    top_k: int
    tokenizer: Any = None
    reward_tokenizer: Any = None
    static_cache: bool = False

    def __post_init__(self) -> None:
        self.prompt_cache = None if self.static_cache else shared_prompt_cache(self.policy, self.ids)
        self.device = self.ids.device

    def ways(self, names: list[str]) -> dict[str, Way]:
        """Makes the ways with these names."""
        makers: dict[str, Callable[[], Way]] = {
            "plain": lambda: lambda steps: self.generate(steps),
            "hand loop": lambda: HandLoop(self).run,
            "siblings": lambda: self.guided(self.reward_model, scorer="siblings"),
            "row per candidate": lambda: self.guided(self.reward_model, scorer="expand"),
            "next-token model": lambda: self.guided(
                fill_head(NextTokenRewardModel.from_backbone(copy.copy(self.reward_model)))
            ),
            "steering head": self.head,
            "through text": lambda: self.guided(
                self.reward_model, tokenizer=self.tokenizer, reward_tokenizer=self.reward_tokenizer
            ),
            "whole, one by one": lambda: self.whole(rows_at_once=1),
            "whole, batched": lambda: self.whole(rows_at_once=self.top_k),
        }
        return {name: makers[name]() for name in names}

    def generate(self, steps: int, processor: Any = None) -> Steps:
        """Times steps of generate(), starting with the second."""
        clock = Clock(self.device)
        if self.static_cache:
            cache = {"cache_implementation": "static"}
        else:
            cache = {cache_argument(self.policy.forward): copy.deepcopy(self.prompt_cache)}
        self.policy.generate(
            self.ids,
            attention_mask=torch.ones_like(self.ids),
            **cache,
            logits_processor=[] if processor is None else [processor],
            stopping_criteria=[clock],
            do_sample=False,
            max_new_tokens=steps + 1,  # the first reads the prompt and is not counted
            eos_token_id=None,
            pad_token_id=0,
        )
        return Steps([after - before for before, after in zip(clock.times, clock.times[1:], strict=False)])

    def guided(self, reward_model: Any, scorer: str = "auto", **arguments: Any) -> Way:
        """Steps guided by a reward model."""
        config = RewardGuidanceConfig(top_k=self.top_k, scorer=scorer)
        processor = RewardGuidedLogitsProcessor(
            reward_model, guidance_config=config, attention_mask=torch.ones_like(self.ids), **arguments
        )
        # Reads the shared prompt once. The rows find it by its ids.
        one, length = self.ids[:1, :-1], self.ids.shape[1] - 1
        processor.scorer.score(PrefixBatch(one, torch.ones_like(one), length), one[:, :1])

        def run(steps: int) -> Steps:
            count = Counter(processor)
            result = self.generate(steps, count)
            result.tokens = (count.tokens[-1] - count.tokens[0]) / (steps * len(self.ids))
            return result

        return run

    def head(self) -> Way:
        """Steps guided by a head on the policy's own hidden states."""
        head = fill_head(NextTokenRewardModel.from_policy(self.policy))

        def run(steps: int) -> Steps:
            with steering(self.policy, [(head, 1.0)], top_k=self.top_k) as processor:
                return self.generate(steps, processor)

        return run

    def whole(self, rows_at_once: int) -> Way:
        """The reward model alone, without a cache: it reads prompt, prefix and candidate for each candidate."""
        backbone, head = find_backbone(self.reward_model), find_score_head(self.reward_model)
        candidates = self.ids[:, -self.top_k :, None]

        def run(steps: int) -> Steps:
            start = now(self.device)
            for row, own in zip(self.ids, candidates, strict=True):
                for some in own.split(rows_at_once):
                    sequences = torch.cat([row.expand(len(some), -1), some], dim=1)
                    head(backbone(input_ids=sequences, use_cache=False).last_hidden_state[:, -1])
            seconds = now(self.device) - start
            return Steps([seconds], [seconds], self.top_k * (self.ids.shape[1] + 1))

        return run


class Counter:
    """A logits processor that notes the reward-model tokens computed up to each step."""

    def __init__(self, processor: RewardGuidedLogitsProcessor) -> None:
        self.processor = processor
        self.tokens: list[int] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Runs the processor."""
        guided = self.processor(input_ids, scores)
        self.tokens.append(self.processor.scorer.tokens_computed)
        return guided


class HandLoop:
    """The simplest loop without needless work: a policy step, one pass over k siblings, one gather of the cache.

    It supports greedy decoding of unpadded batches only. Its reward-model pass, added to the step of unguided
    generate(), is the floor that guided steps are compared with.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.backbone, self.head = find_backbone(setting.reward_model), find_score_head(setting.reward_model)
        # Asked once: looking at a signature takes longer than it should within what is timed.
        self.cache_name = cache_argument(self.backbone.forward)
        self.cache = shared_prompt_cache(self.backbone, setting.ids)
        self.read(self.cache, setting.ids[:, -1:])

    def read(self, cache: DynamicCache, ids: Tensor) -> None:
        """Reads the last tokens of the prompts."""
        place = torch.full_like(ids, cache.get_seq_length())
        self.backbone(input_ids=ids, position_ids=place, use_cache=True, **{self.cache_name: cache})

    def run(self, steps: int) -> Steps:
        """Times steps, and the reward model's forward pass in each."""
        setting, device = self.setting, self.setting.device
        policy_cache, cache = copy.deepcopy(setting.prompt_cache), copy.deepcopy(self.cache)
        shared = {cache_argument(setting.policy.forward): policy_cache, "use_cache": True}
        last, result = setting.ids[:, -1:], Steps([], tokens=setting.top_k)
        for step in range(steps + 1):
            start = now(device)
            length = cache.get_seq_length()
            logits = setting.policy(input_ids=last, **shared).logits[:, -1].float()
            scores, candidates = logits.topk(setting.top_k)
            middle = now(device)
            rewards = self.rewards(cache, candidates, length)
            end = now(device)
            choice = (scores + rewards).argmax(-1, keepdim=True)
            kept = torch.cat([torch.arange(length, device=device).expand(len(last), -1), length + choice], dim=1)
            for layer in cache.layers:
                layer.keys, layer.values = (gathered(part, kept) for part in (layer.keys, layer.values))
            last = candidates.gather(1, choice)
            if step:  # the first is not counted, as in generate()
                result.seconds.append(now(device) - start)
                result.pass_seconds.append(end - middle)
        return result

    def rewards(self, cache: DynamicCache, candidates: Tensor, length: int) -> Tensor:
        """One forward pass over k siblings. Each sees the prefix, and none sees another."""
        rows, k = candidates.shape
        dtype = self.head.weight.dtype
        among = torch.full((k, k), torch.finfo(dtype).min, dtype=dtype, device=candidates.device).fill_diagonal_(0)
        mask = torch.cat([among.new_zeros(k, length), among], dim=1).expand(rows, 1, k, length + k)
        positions = torch.full_like(candidates, length)
        shared = {"attention_mask": mask, "use_cache": True, self.cache_name: cache}
        output = self.backbone(input_ids=candidates, position_ids=positions, **shared)
        return self.head(output.last_hidden_state)[..., 0].float()


def gathered(part: Tensor, columns: Tensor) -> Tensor:
    return part.gather(2, columns[:, None, :, None].expand(-1, part.shape[1], -1, part.shape[3]))


def shared_prompt_cache(model: Any, ids: Tensor) -> DynamicCache:
    """A model's cache of the prompts without their last tokens. All rows share it."""
    cache = DynamicCache()
    if ids.shape[1] > 1:
        # The backbone fills the cache; the output layer is not needed.
        backbone = find_backbone(model)
        backbone(input_ids=ids[:1, :-1], use_cache=True, **{cache_argument(backbone.forward): cache})
        cache.batch_repeat_interleave(len(ids))
    return cache
