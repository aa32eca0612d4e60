"""The reward model's own prompts, where they are not the policy's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["RewardPrompts"]


class RewardPrompts:
    """Prompts that the reward model reads in place of the policy's, with the policy's generated tokens after them.

    For a reward model with another chat template, or an encoder-decoder policy, whose source text is not among the
    ids that a logits processor sees.

    Args:
        prompts: One prompt per prompt of `generate()`, in its order: texts, lists of token ids, a padded tensor of
            ids, or a tokenizer's output with `input_ids` and `attention_mask`. Ids are of the policy's vocabulary.
        tokenizer: The policy's tokenizer, needed for texts.
        pad_token_id: The id that pads a tensor of ids that comes without a mask.

    Raises:
        ValueError: If there are no prompts or one of them is empty, or texts come without a tokenizer.
        TypeError: If the prompts are of none of these types.
    """

    def __init__(self, prompts: Any, tokenizer: Any = None, pad_token_id: int | None = None):
        rows = _as_rows(prompts, tokenizer, pad_token_id)
        if not rows or not all(rows):
            raise ValueError(
                "`reward_prompts` is empty or holds an empty prompt: give one prompt per row of the batch."
            )
        width = max(map(len, rows))
        self.input_ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
        self.attention_mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])

    def replace(self, prefixes: PrefixBatch) -> PrefixBatch:
        """Puts these prompts in place of the policy's. Rows that share a prompt stand together, as beams do."""
        rows, prompts = len(prefixes.input_ids), len(self.input_ids)
        if rows % prompts:
            raise ValueError(
                f"There are {prompts} `reward_prompts`, but generate() runs {rows} rows: give one prompt per prompt "
                "of this call."
            )
        device = prefixes.input_ids.device
        ids, mask = (
            part.to(device).repeat_interleave(rows // prompts, dim=0) for part in (self.input_ids, self.attention_mask)
        )
        response = prefixes.input_ids[:, prefixes.prompt_length :]
        shift = ids.shape[1] - prefixes.prompt_length
        return PrefixBatch(
            torch.cat([ids, response], dim=1),
            torch.cat([mask, torch.ones_like(response)], dim=1),
            ids.shape[1],
            prefixes.base_length + shift,
        )


def _as_rows(prompts: Any, tokenizer: Any, pad_token_id: int | None) -> list[list[int]]:
    if isinstance(prompts, Mapping):
        ids, mask = torch.as_tensor(prompts["input_ids"]), torch.as_tensor(prompts["attention_mask"])
        return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
    if isinstance(prompts, Tensor):
        return [row[row != pad_token_id].tolist() if pad_token_id is not None else row.tolist() for row in prompts]
    if isinstance(prompts, Sequence) and not isinstance(prompts, str):
        if prompts and all(isinstance(prompt, str) for prompt in prompts):
            if tokenizer is None:
                raise ValueError("`reward_prompts` are texts: pass `tokenizer=`, the policy's, to read them.")
            return [tokenizer(prompt)["input_ids"] for prompt in prompts]
        if all(isinstance(prompt, (Sequence, Tensor)) and not isinstance(prompt, str) for prompt in prompts):
            return [[int(token) for token in prompt] for prompt in prompts]
    raise TypeError(
        f"`reward_prompts` is {type(prompts).__name__}, but a list of texts, a list of lists of token ids, a tensor "
        "of ids or a tokenizer's output is required."
    )
