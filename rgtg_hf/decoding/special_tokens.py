"""The policy's pad, bos and eos tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PretrainedConfig, PreTrainedTokenizerBase

__all__ = ["SpecialTokens", "special_tokens"]


class SpecialTokens(NamedTuple):
    """Ids of the policy's vocabulary: the pad token, the bos token, and the tokens that end a response."""

    pad: int | None
    bos: int | None
    eos: list[int]


def special_tokens(
    tokenizer: PreTrainedTokenizerBase | None,
    reward_model: Any,
    pad_token_id: int | None = None,
    eos_token_id: int | Sequence[int] | None = None,
) -> SpecialTokens:
    """The policy's special tokens: those given, or those of its tokenizer, or those of a reward model's configuration.

    Args:
        tokenizer: The policy's tokenizer.
        reward_model: The reward model, or a list of which the first counts.
        pad_token_id: The pad token.
        eos_token_id: The end token or tokens.

    Raises:
        TypeError: If an id is not an integer.
    """
    pad, bos, eos = _found(tokenizer, reward_model)
    if pad_token_id is not None:
        pad = _checked_id("pad_token_id", pad_token_id)
    if eos_token_id is not None:
        eos = [_checked_id("eos_token_id", id_) for id_ in _as_list(eos_token_id)]
    return SpecialTokens(pad, bos, eos)


def _found(tokenizer: Any, reward_model: Any) -> SpecialTokens:
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return SpecialTokens(tokenizer.pad_token_id, tokenizer.bos_token_id, _as_list(tokenizer.eos_token_id))
    first = reward_model[0] if isinstance(reward_model, (list, tuple)) and reward_model else reward_model
    if not isinstance(getattr(first, "config", None), PretrainedConfig):
        return SpecialTokens(None, None, [])
    config = first.config.get_text_config()
    return SpecialTokens(config.pad_token_id, config.bos_token_id, _as_list(config.eos_token_id))


def _as_list(token_ids: Any) -> list[int]:
    return [] if token_ids is None else list(token_ids) if isinstance(token_ids, (list, tuple)) else [token_ids]


def _checked_id(name: str, token_id: object) -> int:
    if isinstance(token_id, bool) or not isinstance(token_id, int):
        raise TypeError(f"`{name}` is or holds {token_id!r}, but a token's id is an integer.")
    return token_id
