"""Attention of a batch of candidates over keys and values that those of one prefix share.

    queries of the model:   prefix 0, candidate 1 | prefix 0, candidate 2 | ... | prefix 1, candidate 1 | ...
    keys and values:        prefix 0: its tokens, then a slot per candidate
                            prefix 1: its tokens, then a slot per candidate

The queries are laid out like the keys, so that each prefix is read once for all its candidates. A model is told to
call this by `set_attn_implementation`, for the length of a pass.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rgtg_hf.private_names import attention_kind

__all__ = ["CandidateLayout", "sharing_attention"]

_NAME = "rgtg_shared"
_UNKNOWN = ("softcap", "s_aux", "position_bias")  # what some models give their attention beside the mask


@dataclass(frozen=True)
class CandidateLayout:
    """Where the candidates of a batch stand.

    Attributes:
        prefixes: The prefix of each candidate, shape `[candidates]`.
        slots: Its number among those of its prefix, shape `[candidates]`.
        slot_count: The most candidates that a prefix has.
        is_token: Which columns of the prefixes are tokens and not padding, boolean, shape `[prefixes, length]`.
    """

    prefixes: Tensor
    slots: Tensor
    slot_count: int
    is_token: Tensor

    def spread(self, states: Tensor) -> Tensor:
        """States of candidates by prefix, `[candidates, heads, 1, size]` as `[prefixes, heads, slots, size]`."""
        grid = states.new_zeros(len(self.is_token), self.slot_count, states.shape[1], states.shape[3])
        grid[self.prefixes.to(states.device), self.slots.to(states.device)] = states[:, :, 0]
        return grid.transpose(1, 2)

    def gather(self, states: Tensor) -> Tensor:
        """The other way, `[prefixes, slots, heads, size]` as `[candidates, 1, heads, size]`."""
        return states[self.prefixes.to(states.device), self.slots.to(states.device)][:, None]

    @cached_property
    def mask(self) -> Tensor:
        """Each slot sees the tokens of its prefix and itself, `[prefixes, 1, slots, length + slots]`."""
        tokens = self.is_token[:, None, None].expand(-1, 1, self.slot_count, -1)
        own = torch.eye(self.slot_count, dtype=torch.bool, device=tokens.device)
        return torch.cat([tokens, own.expand(len(tokens), 1, -1, -1)], dim=-1)


_layout: ContextVar[CandidateLayout | None] = ContextVar("layout", default=None)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention by sdpa. In a pass over candidates, with the queries of each prefix side by side."""
    layout = _layout.get()
    if layout is None:  # another thread reads whole sequences with the same model
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if unknown := [name for name in _UNKNOWN if kwargs.get(name) is not None]:
        raise ValueError(f"Candidates cannot share keys and values in an attention with {unknown[0]!r}.")
    kwargs["is_causal"] = False
    output, _ = sdpa_attention_forward(module, layout.spread(query), key, value, layout.mask.to(key.device), **kwargs)
    return layout.gather(output), None


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)

# For each model in a pass, in how many threads, and its own kind of attention.
_passes: WeakKeyDictionary[PreTrainedModel, tuple[int, str | None]] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def sharing_attention(decoder: PreTrainedModel, layout: CandidateLayout) -> Iterator[None]:
    """Lets candidates share keys and values for the length of a block.

    Args:
        decoder: The model that reads them. Its cache must return keys and values as the module's text shows them.
        layout: Where the candidates stand.
    """
    with _lock:
        count, kind = _passes.get(decoder, (0, attention_kind(decoder)))
        if not count:
            decoder.set_attn_implementation(_NAME)
        _passes[decoder] = (count + 1, kind)
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)
        with _lock:
            count, _ = _passes.pop(decoder)
            if count > 1:
                _passes[decoder] = (count - 1, kind)
            else:
                decoder.set_attn_implementation(kind)  # type: ignore[arg-type]
