"""Samples one response to each prompt, as all benchmarks of steering heads do."""

from __future__ import annotations

import itertools
from typing import Any

from transformers import LogitsProcessor

from rgtg_hf.cli.prompt_files import encode_prompts
from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.evaluation.gold import vader_sentiment
from rgtg_hf.evaluation.sampling import sample_responses

MAX_NEW_TOKENS = 48
TOP_K = 10


def sample(
    policy: Any, tokenizer: Any, prompts: list[str], processor: LogitsProcessor | None, seed: int
) -> dict[str, list[Any]]:
    """Samples at temperature 1 from `TOP_K` candidates, all prompts in one batch.

    Returns:
        One entry per prompt of `gold` (VADER's sentiment), `kl` (exact, in nats), `texts`, `ids`, `log_likelihoods`
        under the unguided policy, and `prompt_ids`.
    """
    inputs = encode_prompts(tokenizer, prompts)
    if hasattr(processor, "reset"):
        processor.reset(inputs["attention_mask"])
    settings: Any = {"top_k": TOP_K, "max_new_tokens": MAX_NEW_TOKENS, "seed": seed}
    sampled = sample_responses(policy, tokenizer, inputs, processor=processor, **settings)
    return {
        "gold": vader_sentiment(sampled.texts),
        "kl": sampled.divergences,
        "texts": sampled.texts,
        "ids": sampled.ids,
        "log_likelihoods": sampled.log_likelihoods,
        "prompt_ids": kept_ids(inputs["input_ids"], inputs["attention_mask"]),
    }


def distinct_2(texts: list[str]) -> float:
    """The share of different pairs of neighbouring words in a text, averaged over texts."""
    shares = []
    for text in texts:
        if pairs := list(itertools.pairwise(text.lower().split())):
            shares.append(len(set(pairs)) / len(pairs))
    return sum(shares) / len(shares)
