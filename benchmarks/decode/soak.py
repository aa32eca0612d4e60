"""Does anything grow, remain or go wrong when guided generation runs for a long time?

    python -m benchmarks.decode.soak --minutes 30

Random batches, policies, kinds of reward model, modes and settings follow one another. Some processors live as long as
the run and some are new, and now and then a generation fails in the middle. Every tenth generation is repeated with
the reference scorer and a new processor, and must give the same tokens. Once a minute, between two generations, the
script resets the processors that live on and counts the process's memory, the live tensors and the hooks on models.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BloomConfig,
    BloomForSequenceClassification,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from benchmarks.random_head import fill_head
from benchmarks.record import record
from rgtg_hf import NextTokenRewardModel, RewardGuidanceConfig, RewardGuidedLogitsProcessor, steering
from rgtg_hf.decoding.padding import pad_left

VOCABULARY, PAD, EOS = 120, 0, 2
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SPECIAL = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS}
LLAMA = SIZES | SPECIAL | {"initializer_range": 0.3}


def policies() -> list[Any]:
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made.append(LlamaForCausalLM(LlamaConfig(**LLAMA)).eval())
    return made


def reward_models() -> dict[str, Any]:
    torch.manual_seed(3)
    gpt2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.3}
    gemma3 = {"head_dim": 16, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}
    bloom = {"hidden_size": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    made: dict[str, Any] = {
        "llama": LlamaForSequenceClassification(LlamaConfig(**LLAMA, num_labels=1)),
        "gpt2": GPT2ForSequenceClassification(GPT2Config(**gpt2, **SPECIAL, num_labels=1)),
        "gemma3": Gemma3TextForSequenceClassification(Gemma3TextConfig(**LLAMA, **gemma3, num_labels=1)),
        "bloom": BloomForSequenceClassification(BloomConfig(**bloom, **SPECIAL, num_labels=1)),
    }
    for model in made.values():
        torch.nn.init.normal_(model.score.weight)
        model.eval()
    made["next token"] = fill_head(NextTokenRewardModel.from_backbone(made["llama"], rank=4), std=0.4)
    made["function"] = count_of_sevens
    return made


def count_of_sevens(prompts: list[str], responses: list[str]) -> list[float]:
    return [response.count("7") - len(response) / 50 for response in responses]


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = {f"t{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="t0", bos_token="t1", eos_token="t2")


def random_call(chance: random.Random) -> tuple[dict[str, Any], RewardGuidanceConfig]:
    """Arguments of generate(), and the settings of guidance."""
    mode: dict[str, Any] = chance.choice(
        [
            {"do_sample": False},
            {"do_sample": True, "num_return_sequences": 2},
            {"do_sample": False, "num_beams": 3},
            {"do_sample": True, "num_beams": 3},
            {"do_sample": False, "prompt_lookup_num_tokens": 3},
        ]
    )
    rows = 1 if "prompt_lookup_num_tokens" in mode else chance.randint(1, 5)
    prompts = [[chance.randrange(3, VOCABULARY) for _ in range(chance.randint(1, 40))] for _ in range(rows)]
    inputs, mask = pad_left(prompts, PAD)
    config = RewardGuidanceConfig(
        beta=chance.choice([1.0, 2.5, -1.0]),
        top_k=chance.choice([3, 10, 40]),
        min_p=chance.choice([None, 0.05]),
        min_entropy=chance.choice([None, None, 0.5]),
    )
    arguments = mode | {
        "inputs": inputs,
        "attention_mask": mask,
        "max_new_tokens": chance.randint(2, 24),
    }
    return arguments, config


class PlannedError(Exception):
    """Raised in the middle of a generation, on purpose."""


def fail(input_ids: Any, scores: Any, **_: Any) -> Any:
    raise PlannedError


class Soak:
    """The models, the processors that live on, and counts of what happened."""

    def __init__(self, seed: int):
        self.chance = random.Random(seed)
        self.policies, self.rewards, self.tokenizer = policies(), reward_models(), word_tokenizer()
        self.living: dict[str, RewardGuidedLogitsProcessor] = {}
        self.counts = dict.fromkeys(("generations", "compared", "wrong", "failed on purpose"), 0)
        self.heads = [[fill_head(NextTokenRewardModel.from_policy(one, rank=4), std=0.4)] for one in self.policies]

    def processor(self, kind: str, config: RewardGuidanceConfig, scorer: str = "auto") -> RewardGuidedLogitsProcessor:
        """A new processor for a kind of reward model."""
        config.scorer = scorer
        return RewardGuidedLogitsProcessor(
            self.rewards[kind],
            tokenizer=self.tokenizer if kind == "function" else None,
            guidance_config=config,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )

    def one(self) -> None:
        """Runs one generation, and compares every tenth with the reference."""
        chance = self.chance
        place = chance.randrange(len(self.policies))
        policy, (arguments, config) = self.policies[place], random_call(chance)
        kind, seed = chance.choice([*self.rewards, "head"]), chance.randrange(1000)
        self.counts["generations"] += 1
        if kind == "head" and "prompt_lookup_num_tokens" in arguments:
            kind = "llama"
        if self.counts["generations"] % 50 == 0:
            self._fail(policy, arguments, kind if kind != "head" else "llama", config)
        if kind == "head":
            head = self.heads[place][0]
            with steering(policy, [(head, config.beta)], top_k=config.top_k) as processor:
                found = self._generate(policy, arguments, processor, seed)
            self._compare(policy, arguments, head, RewardGuidanceConfig(config.beta, config.top_k), seed, found)
            return
        # A processor that lives on keeps its own settings.
        fresh = chance.random() < 0.5
        processor = (
            self.processor(kind, config) if fresh else self.living.setdefault(kind, self.processor(kind, config))
        )
        found = self._generate(policy, arguments, processor, seed)
        settings = RewardGuidanceConfig(**vars(processor.config))
        self._compare(policy, arguments, kind, settings, seed, found)

    def _generate(self, policy: Any, arguments: dict[str, Any], processor: Any, seed: int) -> Any:
        torch.manual_seed(seed)
        return policy.generate(**arguments, logits_processor=[processor])

    def _compare(self, policy: Any, arguments: Any, what: Any, config: Any, seed: int, found: Any) -> None:
        if self.counts["generations"] % 10:
            return
        if isinstance(what, str):
            reference = self.processor(what, config, "reference")
        else:
            config.scorer = "reference"
            reference = RewardGuidedLogitsProcessor(what, guidance_config=config, pad_token_id=PAD, eos_token_id=EOS)
        expected = self._generate(policy, arguments, reference, seed)
        self.counts["compared"] += 1
        self.counts["wrong"] += not torch.equal(found, expected)

    def _fail(self, policy: Any, arguments: dict[str, Any], kind: str, config: RewardGuidanceConfig) -> None:
        processor = self.living.get(kind) or self.processor(kind, config)
        try:
            policy.generate(**arguments, logits_processor=[processor, fail])
        except PlannedError:
            self.counts["failed on purpose"] += 1

    def measure(self, since: float) -> dict[str, float]:
        """Counts memory, tensors and hooks between two generations."""
        for processor in self.living.values():
            processor.reset()
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        modules = [*self.policies, *(model for model in self.rewards.values() if isinstance(model, torch.nn.Module))]
        return {
            "minutes": round((time.monotonic() - since) / 60, 2),
            "generations": self.counts["generations"],
            "rss_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
            "tensors": sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()),
            "hooks": sum(len(part._forward_hooks) for model in modules for part in model.modules()),
        }


def summary(samples: list[dict[str, float]], warm_up: float) -> dict[str, float]:
    """Growth between the first and the last fifth of the samples after the warm-up, by their medians."""
    after = [sample for sample in samples if sample["minutes"] >= warm_up]
    fifth = max(1, len(after) // 5)
    found: dict[str, float] = {}
    for name in ("rss_mib", "tensors", "hooks"):
        first, last = (statistics.median(s[name] for s in part) for part in (after[:fifth], after[-fifth:]))
        found |= {f"{name}_first": first, f"{name}_last": last}
    found["rss_growth_percent"] = round(100 * (found["rss_mib_last"] / found["rss_mib_first"] - 1), 3)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--warm_up", type=float, default=5.0, help="minutes that do not count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    soak, samples, start = Soak(arguments.seed), [], time.monotonic()
    while time.monotonic() - start < 60 * arguments.minutes:
        soak.one()
        if time.monotonic() - start >= 60 * (len(samples) + 1) * min(1.0, arguments.minutes / 20):
            samples.append(soak.measure(start))
            print(samples[-1], soak.counts, flush=True)
    results = {"counts": soak.counts, **summary(samples, arguments.warm_up), "samples": samples}
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    print(record("soak", settings, results, arguments.output))
    bad = soak.counts["wrong"] or results["hooks_last"] or results["rss_growth_percent"] >= 1
    return int(bool(bad or results["tensors_last"] > results["tensors_first"]))


if __name__ == "__main__":
    sys.exit(main())
