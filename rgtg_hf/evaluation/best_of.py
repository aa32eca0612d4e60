"""Searches: the policy writes several responses, or blocks of a response, and a reward model selects among them."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, LogitsProcessorList, set_seed

from rgtg_hf.config import RewardGuidanceConfig
from rgtg_hf.decoding.generation import generate_guided
from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.decoding.search_divergence import search_divergence
from rgtg_hf.evaluation.divergence import response_mask
from rgtg_hf.evaluation.sampling import SampledResponses, end_token_ids

__all__ = ["best_of_n", "log_likelihoods", "search_responses"]

_LOGITS_AT_ONCE = 2**27  # half a gigabyte


def best_of_n(rewards: Sequence[float], n: int) -> list[int]:
    """Finds the best of the `n` responses to each prompt.

    Args:
        rewards: Rewards of all responses, grouped by prompt.
        n: Responses per prompt.

    Returns:
        One index into `rewards` per prompt; the first of equal rewards.

    Raises:
        ValueError: If the rewards cannot be divided into groups of `n`.

    Example:
        ```python
        from rgtg_hf.evaluation.best_of import best_of_n

        assert best_of_n([0.1, 0.9, 0.5, 0.2], n=2) == [1, 2]
        ```
    """
    if n < 1 or len(rewards) % n:
        raise ValueError(f"{len(rewards)} rewards cannot be divided into groups of {n}, one group per prompt.")
    return [max(range(start, start + n), key=lambda place: rewards[place]) for start in range(0, len(rewards), n)]


def search_responses(
    policy: Any,
    tokenizer: Any,
    inputs: Mapping[str, Tensor],
    reward_model: Any,
    *,
    search: str,
    n: int,
    top_k: int,
    max_new_tokens: int,
    seed: int,
    block_size: int = 8,
    beta: float = 1.0,
    value_beta: float | str = 0.0,
    guide: LogitsProcessor | None = None,
    max_rows: int = 0,
) -> SampledResponses:
    """Responses of a search among rows that are sampled from the policy's `top_k` most likely tokens.

    Args:
        policy: A causal language model.
        tokenizer: Its tokenizer.
        inputs: Left-padded `input_ids` and `attention_mask`, each of shape `[prompts, length]`.
        reward_model: A reward model with the policy's tokens. Only for `"none"` it may be trained on whole responses.
        search: `"none"` for best-of-n, `"best"` for block-wise best-of-n, `"halve"` for best-of-n with early stopping,
            `"resample"` for particles; see [`search`][rgtg_hf.decoding.search].
        n: Rows per prompt.
        top_k: Number of candidates per sampling step.
        max_new_tokens: Largest number of tokens per response.
        seed: Seed of sampling.
        block_size: Tokens per block.
        beta: Strength of particles. The other selections rank the rows.
        value_beta: Which soft value of a value model is its reward.
        guide: A processor that guides the rows within their blocks, with the same number of candidates.
        max_rows: Rows that run at once; 0 for all.

    Returns:
        The best response to each prompt, or one that is drawn for `"resample"`. Its divergence is the upper bound: log
        n nats for `"halve"`, whose choice is not known to be that of the highest reward. Particles are compared with
        the policy, the others with the policy under the guide.
    """
    config = copy.deepcopy(policy.generation_config)
    # The search selects the candidates, so the top_k of generate() is switched off.
    config.update(do_sample=True, temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=max_new_tokens)
    config.update(pad_token_id=tokenizer.pad_token_id, return_dict_in_generate=True)
    guidance = RewardGuidanceConfig(
        search=search,
        num_rows=n,
        block_size=block_size,
        top_k=top_k,
        beta=beta,
        max_rows=max_rows,
        value_beta=value_beta,
    )
    guides = LogitsProcessorList([] if guide is None else [guide])
    set_seed(seed)
    start = time.perf_counter()
    with torch.inference_mode():
        found = generate_guided(
            policy.generate, policy, reward_model, None, config, guides, guidance_config=guidance, **inputs
        )
    seconds = time.perf_counter() - start
    response_ids = found.sequences[:, inputs["input_ids"].shape[1] :]
    mask = response_mask(response_ids, end_token_ids(policy))
    ids = kept_ids(response_ids, mask)
    return SampledResponses(
        texts=tokenizer.batch_decode(ids, skip_special_tokens=True),
        divergences=search_divergence(guidance, found, list(map(len, ids))),
        tokens=sum(map(len, ids)),
        seconds=seconds,
        ids=ids,
        log_likelihoods=log_likelihoods(policy, kept_ids(inputs["input_ids"], inputs["attention_mask"]), ids),
        reward_model_tokens=found.reward_model_tokens,
    )


@torch.inference_mode()
def log_likelihoods(policy: Any, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
    """log pi_LM(y | x) of each response under the unguided policy.

    Args:
        policy: A causal language model.
        prompts: Token ids of each prompt.
        responses: Token ids of each response.

    Returns:
        Nats per response, over the whole vocabulary, at temperature 1.
    """
    rows = [torch.tensor(prompt + own) for prompt, own in zip(prompts, responses, strict=True)]
    per_row = max(map(len, rows)) * policy.config.get_text_config().vocab_size
    together = max(1, _LOGITS_AT_ONCE // per_row)
    found: list[Tensor] = []
    for start in range(0, len(rows), together):
        # Padding is on the right, where a causal model does not see it.
        ids = pad_sequence(rows[start : start + together], batch_first=True).to(policy.device)
        logits = policy(ids).logits[:, :-1].float()
        found += logits.gather(2, ids[:, 1:, None])[..., 0].double() - logits.logsumexp(-1).double()
    return [
        float(row[len(prompt) - 1 : len(prompt) - 1 + len(own)].sum())
        for row, prompt, own in zip(found, prompts, responses, strict=True)
    ]
