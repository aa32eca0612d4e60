"""Padding: which columns it is, which `generate()` does not tell a logits processor, and rows without it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["check_mask", "check_padding", "infer_attention_mask", "kept_ids", "pad_left"]


def check_mask(attention_mask: object) -> None:
    """Refuses what is no mask of prompts.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it has not two dimensions of at least 1, holds other values than 0 and 1, or hides a whole row.
    """
    if not isinstance(attention_mask, Tensor):
        raise TypeError(f"`attention_mask` is a {type(attention_mask).__name__}, but a tensor is required.")
    if attention_mask.dim() != 2 or not attention_mask.numel():
        raise ValueError(
            f"`attention_mask` has shape {tuple(attention_mask.shape)}, but one row per prompt is required, "
            "[prompts, length]."
        )
    if not bool(((attention_mask == 0) | (attention_mask == 1)).all()):
        raise ValueError("`attention_mask` holds other values than 1 for tokens and 0 for padding.")
    if not bool((attention_mask == 1).any(-1).all()):
        raise ValueError("`attention_mask` has a row of zeros, a prompt without any token: give each at least one.")


def infer_attention_mask(
    input_ids: Tensor,
    prompt_mask: Tensor | None = None,
    pad_token_id: int | None = None,
    bos_token_id: int | None = None,
) -> Tensor:
    """The attention mask of a left-padded batch, from the prompt's mask or else from leading pad tokens.

    It does not look at the device: [`check_padding`][rgtg_hf.decoding.padding.check_padding] does, once a generation.

    Args:
        input_ids: Prompt and generated tokens, shape `[rows, length]`.
        prompt_mask: The `attention_mask` that was passed to `generate()`, shape `[prompts, prompt_length]`, where
            `rows` is a multiple of `prompts` (beams and return sequences).
        pad_token_id: The id that pads on the left, where there is no `prompt_mask`.
        bos_token_id: The id that begins texts. Where it is also the pad id, leading ones cannot be told apart.

    Returns:
        1 for tokens, 0 for padding, int64, shape `[rows, length]`.

    Raises:
        ValueError: If `prompt_mask` does not fit the batch.
    """
    mask = torch.ones_like(input_ids)
    if prompt_mask is not None:
        prompts, width = prompt_mask.shape
        if len(input_ids) % prompts or width > input_ids.shape[1]:
            raise ValueError(
                f"`attention_mask` has shape {tuple(prompt_mask.shape)}, but this call of generate() has "
                f"{len(input_ids)} rows of {input_ids.shape[1]} tokens. It must be the mask of the prompts that are "
                "being continued: make a new processor, or call set_prompts(attention_mask=...), when the prompts "
                "change."
            )
        mask[:, :width] = prompt_mask.to(mask).repeat_interleave(len(input_ids) // prompts, dim=0)
        return mask
    if pad_token_id is None or pad_token_id == bos_token_id:
        return mask
    return mask - (input_ids == pad_token_id).long().cumprod(-1)


def check_padding(input_ids: Tensor, pad_token_id: int | None = None, bos_token_id: int | None = None) -> None:
    """Refuses rows whose padding on the left cannot be told from their ids.

    Args:
        input_ids: Prompts, shape `[rows, length]`.
        pad_token_id: The id that pads on the left.
        bos_token_id: The id that begins texts.

    Raises:
        ValueError: If padding cannot be told.
    """
    if pad_token_id is None:
        return
    leading = (input_ids == pad_token_id).long().cumprod(-1)
    if pad_token_id == bos_token_id:
        lengths = leading.sum(-1)
        if bool((lengths == lengths[0]).all()) and int(lengths[0]) <= 1:
            return  # every row begins with one bos, or none does
        raise ValueError(
            f"Rows begin with the token {pad_token_id}, which is both the pad and the bos token, so padding cannot be "
            "told from text. Pass the mask: RewardGuidedLogitsProcessor(..., attention_mask=inputs['attention_mask'])."
        )
    if bool((leading.sum(-1) == input_ids.shape[1]).any()):
        raise ValueError(
            f"A row holds nothing but the pad token {pad_token_id}, so padding cannot be told from text. Pass the "
            "mask: RewardGuidedLogitsProcessor(..., attention_mask=inputs['attention_mask'])."
        )


def pad_left(rows: Sequence[Sequence[int]], pad_token_id: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of token ids as one left-padded batch, the reverse of [`kept_ids`].

    Args:
        rows: A list of ids for each row.
        pad_token_id: What stands where the mask is 0.

    Returns:
        Ids and mask, int64, each of shape `[rows, length]`.
    """
    width = max(map(len, rows))
    ids = torch.tensor([[pad_token_id] * (width - len(row)) + list(row) for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def kept_ids(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The token ids of each row without those that a mask leaves out.

    Args:
        ids: Token ids, shape `[rows, length]`.
        mask: 1 or true for the tokens to keep, same shape.

    Returns:
        A list of ids for each row.

    Example:
        ```python
        import torch
        from rgtg_hf.decoding.padding import kept_ids

        assert kept_ids(torch.tensor([[0, 5], [6, 7]]), torch.tensor([[0, 1], [1, 1]])) == [[5], [6, 7]]
        ```
    """
    return [row[kept].tolist() for row, kept in zip(ids, mask.bool(), strict=True)]
