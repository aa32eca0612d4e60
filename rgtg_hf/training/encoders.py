"""Training rewards of prefixes with encoders (BERT, DeBERTa), which read a whole text at once.

One pass of an encoder gives one reward, so each prefix becomes a separate text. All prefixes of a pair would need as
many passes as the responses have tokens, so a few are drawn. An encoder's text has no end-of-sequence token that
distinguishes a finished response from a prefix: both are `[CLS] prompt and prefix [SEP]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rgtg_hf.rewards.pair_accuracy import rewards_at_fraction
from rgtg_hf.rewards.pairs import TEXT, TOKENIZED, common_prefix_length
from rgtg_hf.rewards.parts import find_score_head

__all__ = [
    "encoder_position_rewards",
    "needed_positions",
    "scores_whole_texts",
    "suffix_tokens",
    "tokenize_for_encoder",
]


def scores_whole_texts(model: nn.Module) -> bool:
    """Whether the model gives one reward per text rather than one per position."""
    try:
        find_score_head(model)
    except ValueError:
        return True
    return False


def suffix_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Finds the tokens that the tokenizer writes after every text: `[SEP]` for BERT, none for most causal models."""
    first, second = (tokenizer(text)["input_ids"][::-1] for text in ("a", "b"))
    return first[: common_prefix_length(first, second)][::-1]


def tokenize_for_encoder(
    dataset: Dataset | IterableDataset, tokenizer: PreTrainedTokenizerBase
) -> Dataset | IterableDataset:
    """Adds `chosen_ids` and `rejected_ids` to rows of text, without the tokens that end a text.

    Args:
        dataset: Rows with `chosen` and `rejected`, and `prompt` if it is not part of them. Tokenized rows stay as they
            are.
        tokenizer: The encoder's tokenizer.

    Returns:
        The data set with two more columns.

    Raises:
        ValueError: If the rows are conversations and the tokenizer has no chat template.
    """
    first = next(iter(dataset))
    if all(first.get(column) is not None for column in TOKENIZED):
        return dataset
    if not isinstance(first["chosen"], str) and not tokenizer.chat_template:
        raise ValueError(
            "The rows are conversations, but the encoder's tokenizer has no chat template. Set its "
            "`chat_template`, or give the rows as text."
        )
    kwargs = {"tokenizer": tokenizer, "suffix": suffix_tokens(tokenizer)}
    return dataset.map(_tokenize, fn_kwargs=kwargs)


def _tokenize(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, suffix: list[int]) -> dict[str, list[int]]:
    columns = {}
    for column, ids_column in zip(TEXT, TOKENIZED, strict=True):
        text = row[column] if row.get("prompt") is None else row["prompt"] + row[column]
        if not isinstance(text, str):
            text = tokenizer.apply_chat_template(text, tokenize=False, **(row.get("chat_template_kwargs") or {}))
        ids = tokenizer(text)["input_ids"]
        columns[ids_column] = ids[: len(ids) - len(suffix)]
    return columns


def needed_positions(weights: Tensor, response_length: Tensor, fractions: Sequence[float] = ()) -> Tensor:
    """Finds the prefixes of each response that must be scored.

    Args:
        weights: How much each prefix counts in the loss, shape `[B, S]`.
        response_length: Tokens of each response, shape `[2B]`, chosen rows first.
        fractions: Score each response at these fractions too.

    Returns:
        Booleans of shape `[2B, S]`; column i - 1 is prefix i.
    """
    columns = torch.arange(weights.shape[1], device=weights.device)
    last = response_length[:, None] - 1
    index = torch.minimum(columns, last)
    counts = (weights > 0).repeat(2, 1)
    needed = torch.zeros_like(counts).scatter_reduce(1, index, counts, "amax", include_self=True)
    for fraction in fractions:
        read = rewards_at_fraction(columns.expand_as(needed), response_length, fraction)
        needed |= columns == read[:, None]
    return needed


def encoder_position_rewards(
    model: nn.Module, inputs: dict[str, Tensor], needed: Tensor, suffix: Sequence[int], pad_token_id: int
) -> tuple[Tensor, Any]:
    """Scores the needed prefixes, each as a separate text.

    Args:
        model: An encoder with one label, wrapped or not.
        inputs: `input_ids` and `attention_mask` of shape `[2B, S]`, `prompt_length` of shape `[B]`.
        needed: True for the prefixes to score, shape `[2B, S]`, see [`needed_positions`].
        suffix: The tokens that end every text.
        pad_token_id: The id that fills up shorter texts.

    Returns:
        Rewards of shape `[2B, S]`, with the reward of a prefix at the position of its last token, as a causal model
        gives them, and 0 for prefixes that are not needed; and the model's outputs.
    """
    row, prefix = needed.nonzero(as_tuple=True)
    length = inputs["prompt_length"].repeat(2)[row] + prefix + 1
    column = torch.arange(needed.shape[1] + len(suffix), device=needed.device)
    ids = torch.nn.functional.pad(inputs["input_ids"], (0, len(suffix)), value=pad_token_id)[row]
    ids = ids.masked_fill(column >= length[:, None], pad_token_id)
    for offset, token in enumerate(suffix):
        ids = ids.masked_fill(column == length[:, None] + offset, token)
    mask = (column < length[:, None] + len(suffix)).long()
    outputs = model(input_ids=ids, attention_mask=mask)
    scores = outputs.logits[:, 0]
    rewards = scores.new_zeros(needed.shape).index_put((row, length - 1), scores)
    return rewards, outputs
