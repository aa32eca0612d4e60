"""The reward model's own prompts, where they are not the policy's."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rgtg_hf.decoding.padding import kept_ids, pad_left
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
        special_ids: Ids that begin or end a text. Where the pad token is one of them, a pad token may be a token of
            the prompt, and is removed only where it cannot be one.
        vocabulary_size: How many ids there are; `None` where they are read as text.

    Raises:
        ValueError: If there are no prompts or one of them is empty, texts come without a tokenizer, an id is not in
            the vocabulary, or the padding of a tensor cannot be told.
        TypeError: If the prompts have another type.
    """

    def __init__(
        self,
        prompts: Any,
        tokenizer: Any = None,
        pad_token_id: int | None = None,
        special_ids: Collection[int | None] = (),
        vocabulary_size: int | None = None,
    ):
        rows = _as_rows(prompts, tokenizer, pad_token_id, special_ids)
        if not rows or not all(rows):
            raise ValueError(
                "`reward_prompts` is empty or holds an empty prompt: give one prompt per row of the batch."
            )
        if vocabulary_size is None and tokenizer is not None:
            vocabulary_size = len(tokenizer)
        if unknown := [id_ for row in rows for id_ in row if id_ < 0 or id_ >= (vocabulary_size or id_ + 1)]:
            raise ValueError(
                f"`reward_prompts` holds the id {unknown[0]}, but the vocabulary has "
                f"{vocabulary_size or 'no negative'} ids: encode them with the policy's tokenizer."
            )
        self.input_ids, self.attention_mask = pad_left(rows)

    def __len__(self) -> int:
        return len(self.input_ids)

    def replace(self, prefixes: PrefixBatch) -> PrefixBatch:
        """Puts these prompts in place of the policy's. Rows that share a prompt stand together, as beams do."""
        rows, prompts = len(prefixes.input_ids), len(self.input_ids)
        if rows % prompts:
            raise ValueError(
                f"There are {prompts} `reward_prompts`, but generate() runs {rows} rows: give one prompt per prompt "
                "of this call."
            )
        device = prefixes.input_ids.device
        self.input_ids, self.attention_mask = self.input_ids.to(device), self.attention_mask.to(device)
        ids, mask = (part.repeat_interleave(rows // prompts, dim=0) for part in (self.input_ids, self.attention_mask))
        response = prefixes.input_ids[:, prefixes.prompt_length :]
        return PrefixBatch(
            torch.cat([ids, response], dim=1), torch.cat([mask, torch.ones_like(response)], dim=1), ids.shape[1]
        )


def _as_rows(
    prompts: Any, tokenizer: Any, pad_token_id: int | None, special_ids: Collection[int | None]
) -> list[list[int]]:
    if isinstance(prompts, Mapping):
        if not {"input_ids", "attention_mask"} <= set(prompts):
            raise TypeError(
                f"`reward_prompts` is a mapping with {sorted(prompts)}, but `input_ids` and `attention_mask` are "
                "required, as a tokenizer gives them."
            )
        ids, mask = (torch.as_tensor(prompts[name]) for name in ("input_ids", "attention_mask"))
        _check_ids(ids)
        if mask.shape != ids.shape:
            raise ValueError(
                f"`reward_prompts` has ids of shape {tuple(ids.shape)} and a mask of {tuple(mask.shape)}: they must "
                "be of the same shape."
            )
        return kept_ids(ids, mask)
    if isinstance(prompts, Tensor):
        _check_ids(prompts)
        return _without_padding(prompts.tolist(), pad_token_id, special_ids)
    if isinstance(prompts, Sequence) and not isinstance(prompts, str):
        if prompts and all(isinstance(prompt, str) for prompt in prompts):
            if tokenizer is None:
                raise ValueError("`reward_prompts` are texts: pass `tokenizer=`, the policy's, to read them.")
            return [tokenizer(prompt)["input_ids"] for prompt in prompts]
        if all(isinstance(prompt, (Sequence, Tensor)) and not isinstance(prompt, str) for prompt in prompts):
            rows = [prompt.tolist() if isinstance(prompt, Tensor) else list(prompt) for prompt in prompts]
            if all(isinstance(token, int) and not isinstance(token, bool) for row in rows for token in row):
                return rows
    raise TypeError(
        f"`reward_prompts` is {type(prompts).__name__}, but a list of texts, a list of lists of token ids, a tensor "
        "of ids or a tokenizer's output is required."
    )


def _without_padding(rows: list[list[int]], pad: int | None, special_ids: Collection[int | None]) -> list[list[int]]:
    """Rows without the padding at either end. A pad token inside a row stays."""
    if pad is None:
        return rows
    before, after = [_run_of(pad, row) for row in rows], [_run_of(pad, row[::-1]) for row in rows]
    if pad in special_ids:
        # A text may also begin or end with one such token. The longest row has no padding, so it shows which do.
        own = min(before, default=0), min(after, default=0)
        before, after = [count - own[0] for count in before], [count - own[1] for count in after]
        if max(own) > 1 or (any(before) and any(after)):
            raise ValueError(
                f"`reward_prompts` is a tensor padded with the token {pad}, which also begins or ends texts, and "
                "which of them are padding cannot be told: pass a tokenizer's output with `attention_mask`, or lists "
                "of ids."
            )
    return [row[one : len(row) - other] for row, one, other in zip(rows, before, after, strict=True)]


def _run_of(pad: int, row: list[int]) -> int:
    """How many pad tokens a row begins with."""
    return next((count for count, id_ in enumerate(row) if id_ != pad), len(row))


def _check_ids(ids: Tensor) -> None:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"`reward_prompts` is a tensor of {ids.dtype}, but token ids are integers.")
    if ids.dim() != 2:
        raise ValueError(f"`reward_prompts` has shape {tuple(ids.shape)}, but one row per prompt is required.")
