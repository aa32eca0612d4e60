"""A sequence classifier over any decoder: hidden states, a score head, and the score of the last token.

This file imports nothing of its own package: checkpoints hold a copy of it, to be loaded where the package is missing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

__all__ = ["DecoderClassifier"]

_CACHE_NAMES = ("cache", "past_key_values")  # since transformers 5.24, and before


class DecoderClassifier:
    """Mixed into the pretrained class of a family, it makes that a sequence classifier.

    transformers' own mixin for this asks for an output that recurrent decoders do not have.

    Args:
        config: The configuration of the decoder, with `num_labels`.

    Attributes:
        score: The head, a linear map without a bias from hidden states to `num_labels` scores.
    """

    base_model_prefix: str

    def __init__(self, config: Any):
        super().__init__(config)  # type: ignore[call-arg]
        self.num_labels: int = config.num_labels
        setattr(self, self.base_model_prefix, AutoModel.from_config(config))
        self.score = nn.Linear(config.get_text_config().hidden_size, config.num_labels, bias=False)
        self.post_init()  # type: ignore[attr-defined]

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: it is loaded as transformers' own classes are.

        Custom code gets no renaming of weights, and buffers that a family computes from its configuration (Falcon-H1)
        are left uninitialized in it.
        """
        return False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Scores the last token of each row that is not padding.

        Args:
            input_ids: Token ids, shape `[batch, length]`.
            attention_mask: 1 for tokens and 0 for padding, shape `[batch, length]`.
            inputs_embeds: Embeddings in place of ids, shape `[batch, length, hidden]`. Their last column counts.
            labels: For a loss, shape `[batch]`.
            kwargs: For the decoder: positions, a cache and so on.

        Returns:
            A `SequenceClassifierOutputWithPast` with `logits` of shape `[batch, num_labels]`.

        Raises:
            ValueError: If several rows are given and no padding token is known.
        """
        given = {name: value for name, value in kwargs.items() if value is not None} | {"return_dict": True}
        found = self.base_model(  # type: ignore[attr-defined]
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **given
        )
        scores = self.score(found.last_hidden_state)
        pad = getattr(self.config.get_text_config(), "pad_token_id", None)  # type: ignore[attr-defined]
        rows = torch.arange(len(scores), device=scores.device)
        last = torch.full_like(rows, scores.shape[1] - 1)
        if pad is None and len(scores) > 1:
            raise ValueError("A batch has padding, but the model has no `pad_token_id`: set it in its config.")
        if pad is not None and input_ids is not None:
            columns = torch.arange(scores.shape[1], device=scores.device)
            last = (columns * (input_ids.to(scores.device) != pad)).argmax(-1)
        logits = scores[rows, last]
        cache = next((name for name in _CACHE_NAMES if name in found), None)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=scores, labels=labels, pooled_logits=logits, config=self.config)  # type: ignore[attr-defined]
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=found.hidden_states,
            attentions=getattr(found, "attentions", None),
            **({cache: found[cache]} if cache else {}),
        )
