"""The output of a search, and of one that went through its prompts in parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import ModelOutput

__all__ = ["SearchOutput", "joined_outputs"]


@dataclass
class SearchOutput(ModelOutput):
    """The output of a search with `return_dict_in_generate=True`.

    Attributes:
        sequences: Prompts and responses, padded on the right, shape `[prompts * num_return_sequences, length]`.
        rewards: r(x, y) - r(x) of each response, float32, shape `[prompts * num_return_sequences]`.
        weights: The weight that each response had among the rows of its prompt in the end, float32, same shape. They
            add up to 1 over all rows of a prompt. Without `"resample"` or `search_return="draw"` they are equal.
        row_sequences: All rows that were there in the end, shape `[prompts * rows, length]`; as many rows per prompt
            as there were, `num_rows` but for `"halve"`.
        row_rewards: Their rewards, float32, shape `[prompts * rows]`.
        row_weights: Their weights, float32, shape `[prompts * rows]`.
        effective_sizes: For `"resample"` the effective sample size of the weights of each prompt after each block, NaN
            after the last one of its part of a split batch, float32, shape `[prompts, blocks]`. `None` for others.
        log_normalizer: For `"resample"` an estimate of log E_policy[exp(beta (r(x, y) - r(x)))] for each prompt,
            float32, shape `[prompts]`; without the logarithm it is unbiased. `None` for others.
        policy_tokens: Tokens that all rows together wrote.
        reward_model_tokens: Tokens that the reward model computed.
    """

    sequences: Tensor | None = None
    rewards: Tensor | None = None
    weights: Tensor | None = None
    row_sequences: Tensor | None = None
    row_rewards: Tensor | None = None
    row_weights: Tensor | None = None
    effective_sizes: Tensor | None = None
    log_normalizer: Tensor | None = None
    policy_tokens: int | None = None
    reward_model_tokens: int | None = None


def joined_outputs(outputs: Sequence[SearchOutput], pad: int) -> SearchOutput:
    """The outputs of the parts of a batch as one, their sequences padded with the token `pad`."""

    def joined(name: str, padding: float | None = None) -> Tensor | None:
        parts = [getattr(one, name) for one in outputs]
        if parts[0] is None or padding is None:
            return None if parts[0] is None else torch.cat(parts)
        width = max(part.shape[1] for part in parts)
        return torch.cat([F.pad(part, (0, width - part.shape[1]), value=padding) for part in parts])

    return SearchOutput(
        sequences=joined("sequences", pad),
        rewards=joined("rewards"),
        weights=joined("weights"),
        row_sequences=joined("row_sequences", pad),
        row_rewards=joined("row_rewards"),
        row_weights=joined("row_weights"),
        effective_sizes=joined("effective_sizes", math.nan),
        log_normalizer=joined("log_normalizer"),
        policy_tokens=sum(one.policy_tokens for one in outputs),  # type: ignore[misc]
    )
