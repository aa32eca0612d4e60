"""A reward model's decoder, as scorers call it: new tokens on top of a cache, each at its position."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from rgtg_hf.compat import cache_argument
from rgtg_hf.rewards.causal_classifier import learned_positions
from rgtg_hf.rewards.model_state import ModelState, input_device
from rgtg_hf.rewards.parts import find_backbone
from rgtg_hf.rewards.prompt_cache import is_recurrent

__all__ = ["Backbone"]

_STATE_LAYERS = {"linear_attention", "mamba"}


class Backbone:
    """The decoder beneath a score head.

    Args:
        reward_model: A causal `*ForSequenceClassification` model.

    Attributes:
        config: The decoder's configuration.
        device: Where the reward model takes its inputs.
        dtype: Its precision.
        state: Tells whether what was read is still what the decoder would give.
        longest: How many tokens it can read, if there is a limit.
        is_recurrent: Whether some layers keep a state in place of keys and values, which cannot be cropped.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self._decoder = find_backbone(reward_model)
        self._cache_argument = cache_argument(self._decoder.forward)  # type: ignore[arg-type]
        self._takes_positions = "position_ids" in inspect.signature(self._decoder.forward).parameters
        self.config = self._decoder.config.get_text_config()  # type: ignore[operator, union-attr]
        self.device, self.dtype = input_device(reward_model), next(reward_model.parameters()).dtype
        self.state = ModelState(self._decoder)
        self.longest = learned_positions(reward_model)
        self.is_recurrent = is_recurrent(reward_model)
        self._has_states_alone = set(getattr(self.config, "layer_types", None) or ("",)) <= _STATE_LAYERS

    @property
    def is_in_one_place(self) -> bool:
        """Whether all its weights are on `device`."""
        return all(parameter.device == self.device for parameter in self._decoder.parameters())

    @property
    def mask_dtype(self) -> torch.dtype:
        """The precision of the attention scores, to which masks are added."""
        kind = self.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.dtype

    def read(self, ids: Tensor, attention_mask: object, positions: Tensor, cache: Cache) -> Tensor:
        """Runs the decoder.

        Args:
            ids: New tokens (-1 at padding), shape `[rows, new]`.
            attention_mask: Whatever the decoder takes: a 2-D mask over all columns, a 4-D additive mask, a dictionary
                of such by layer type, or nothing.
            positions: Position of each new token, shape `[rows, new]`.
            cache: The tokens read before; the new ones are added to it.

        Returns:
            Hidden states, shape `[rows, new, hidden]`.
        """
        arguments: dict[str, object] = {self._cache_argument: cache}
        if self._has_states_alone and isinstance(attention_mask, Tensor) and attention_mask.shape[1] > ids.shape[1]:
            attention_mask = None  # its padding is that of a first reading; what follows is all tokens
        if self._takes_positions:
            arguments["position_ids"] = positions
        return self._decoder(
            input_ids=ids.clamp(min=0),
            attention_mask=attention_mask,
            use_cache=True,
            **arguments,
        ).last_hidden_state
