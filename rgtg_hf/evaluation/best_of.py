"""Best-of-n: the policy writes several responses, or blocks of one, and a reward model picks.

Nothing is steered inside a step, so the divergence from the policy is not known exactly. Known is a bound, for
distinct rewards: KL <= log n - (n - 1) / n per choice (Beirami et al., arXiv:2401.01879).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rgtg_hf.evaluation.sampling import SampledResponses, end_token_ids, sample_responses
from rgtg_hf.rewards.prefix_rewards import prefix_rewards

__all__ = [
    "best_of_n",
    "best_of_n_divergence_bound",
    "blockwise_best_of_n",
    "response_rewards",
    "sample_best_of_n",
    "unpadded",
]


def best_of_n_divergence_bound(n: int, choices: int = 1) -> float:
    """The most that best-of-n diverges from the policy, log n - (n - 1) / n nats for each choice among n.

    Args:
        n: Responses, or blocks, to choose from.
        choices: How often is chosen: 1 for whole responses, the number of blocks for blocks.

    Example:
        ```python
        from rgtg_hf.evaluation.best_of import best_of_n_divergence_bound

        assert best_of_n_divergence_bound(1) == 0.0
        ```
    """
    return choices * (math.log(n) - (n - 1) / n)


@torch.no_grad()
def response_rewards(
    reward_model: Any, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], batch_size: int = 128
) -> list[float]:
    """The reward of each response as a whole, r(x, y): that of its last token.

    Args:
        reward_model: A causal sequence classifier with one label, with the policy's tokens.
        prompts: Token ids of each response's prompt, without padding.
        responses: Token ids of the responses, in the same order; none of them needs an end token.
        batch_size: Sequences per forward pass.

    Returns:
        One reward per response.
    """
    device = next(reward_model.parameters()).device
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    # Sequences of like length together: little padding. It is on the right, where a causal model does not see it.
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    rewards = [0.0] * len(rows)
    for start in range(0, len(rows), batch_size):
        places = order[start : start + batch_size]
        width = len(rows[places[-1]])
        ids = torch.tensor([rows[place] + [0] * (width - len(rows[place])) for place in places], device=device)
        lengths = torch.tensor([len(rows[place]) for place in places], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        last = prefix_rewards(reward_model, ids, mask, use_cache=False).gather(1, lengths[:, None] - 1)
        for place, reward in zip(places, last[:, 0].float().tolist(), strict=True):
            rewards[place] = reward
    return rewards


def best_of_n(rewards: Sequence[float], n: int) -> list[int]:
    """The place of the best of each prompt's `n` responses.

    Args:
        rewards: Rewards of all responses, those of a prompt next to each other.
        n: Responses per prompt.

    Returns:
        One place in `rewards` per prompt; the first of equals.

    Example:
        ```python
        from rgtg_hf.evaluation.best_of import best_of_n

        assert best_of_n([0.1, 0.9, 0.5, 0.2], n=2) == [1, 2]
        ```
    """
    if n < 1 or len(rewards) % n:
        raise ValueError(f"{len(rewards)} rewards cannot be {n} for each prompt.")
    return [max(range(start, start + n), key=lambda place: rewards[place]) for start in range(0, len(rewards), n)]


def sample_best_of_n(
    policy: Any,
    tokenizer: Any,
    inputs: Mapping[str, Tensor],
    reward_model: Any,
    *,
    n: int,
    top_k: int,
    max_new_tokens: int,
    seed: int,
) -> SampledResponses:
    """Samples `n` whole responses to each prompt and keeps the one that the reward model likes best.

    Args:
        policy: A causal language model.
        tokenizer: Its tokenizer.
        inputs: Left-padded `input_ids` and `attention_mask`, each of shape `[prompts, length]`.
        reward_model: A reward model with the policy's tokens, trained on prefixes or on whole responses.
        n: Responses to choose from.
        top_k: Candidates per step of sampling.
        max_new_tokens: Tokens per response at most.
        seed: Of sampling.

    Returns:
        The responses that were kept. Their divergences are those of the bound.
    """
    start = time.perf_counter()
    drawn = sample_responses(
        policy, tokenizer, inputs, top_k=top_k, max_new_tokens=max_new_tokens, seed=seed, responses_per_prompt=n
    )
    prompts = [prompt for prompt in unpadded(inputs) for _ in range(n)]
    best = best_of_n(response_rewards(reward_model, prompts, drawn.ids), n)
    ids = [drawn.ids[place] for place in best]
    return SampledResponses(
        texts=[drawn.texts[place] for place in best],
        divergences=[best_of_n_divergence_bound(n)] * len(best),
        tokens=sum(map(len, ids)),
        seconds=time.perf_counter() - start,
        ids=ids,
        log_likelihoods=[drawn.log_likelihoods[place] for place in best],
        reward_model_tokens=sum(map(len, prompts)) + drawn.tokens,
    )


def blockwise_best_of_n(
    policy: Any,
    tokenizer: Any,
    inputs: Mapping[str, Tensor],
    reward_model: Any,
    *,
    n: int,
    block_size: int,
    top_k: int,
    max_new_tokens: int,
    seed: int,
) -> SampledResponses:
    """Continues each response by the best of `n` sampled blocks, again and again (Mudgal et al., arXiv:2310.17022).

    Args:
        policy: A causal language model.
        tokenizer: Its tokenizer.
        inputs: Left-padded `input_ids` and `attention_mask`, each of shape `[prompts, length]`.
        reward_model: A prefix reward model with the policy's tokens: unfinished responses are judged.
        n: Blocks to choose from.
        block_size: Tokens per block.
        top_k: Candidates per step of sampling.
        max_new_tokens: Tokens per response at most.
        seed: Of sampling.

    Returns:
        The responses. Their divergences are those of the bound, for as many blocks as each response has.
    """
    start = time.perf_counter()
    ends = set(end_token_ids(policy))
    device = inputs["input_ids"].device
    prompts = [
        ids[kept.bool()].tolist() for ids, kept in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    responses: list[list[int]] = [[] for _ in prompts]
    choices, likelihoods, reward_model_tokens = [0] * len(prompts), [0.0] * len(prompts), 0
    for number in range(math.ceil(max_new_tokens / block_size)):
        going = [row for row, ids in enumerate(responses) if not ends & set(ids[-1:])]
        if not going:
            break
        batch = _left_padded([prompts[row] + responses[row] for row in going], tokenizer.pad_token_id, device)
        size = min(block_size, max_new_tokens - number * block_size)
        sampled = sample_responses(
            policy,
            tokenizer,
            batch,
            top_k=top_k,
            max_new_tokens=size,
            seed=seed + number,
            responses_per_prompt=n,
        )
        before = [responses[row] for row in going for _ in range(n)]
        tried = [first + block for first, block in zip(before, sampled.ids, strict=True)]
        owners = [prompts[row] for row in going for _ in range(n)]
        rewards = response_rewards(reward_model, owners, tried)
        reward_model_tokens += sum(map(len, owners)) + sum(map(len, tried))
        for row, place in zip(going, best_of_n(rewards, n), strict=True):
            responses[row] = tried[place]
            likelihoods[row] += sampled.log_likelihoods[place]
            choices[row] += 1
    return SampledResponses(
        texts=tokenizer.batch_decode(responses, skip_special_tokens=True),
        divergences=[best_of_n_divergence_bound(n, blocks) for blocks in choices],
        tokens=sum(map(len, responses)),
        seconds=time.perf_counter() - start,
        ids=responses,
        log_likelihoods=likelihoods,
        reward_model_tokens=reward_model_tokens,
    )


def unpadded(inputs: Mapping[str, Tensor]) -> list[list[int]]:
    """The token ids of each prompt of a padded batch, without the padding."""
    pairs = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
    return [ids[kept].tolist() for ids, kept in pairs]


def _left_padded(rows: list[list[int]], pad_token_id: int, device: Any) -> dict[str, Tensor]:
    width = max(map(len, rows))
    return {
        "input_ids": torch.tensor([[pad_token_id] * (width - len(row)) + row for row in rows], device=device),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device),
    }
