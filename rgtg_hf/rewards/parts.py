"""The parts of a reward model: the decoder, and the head that turns hidden states into rewards."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

__all__ = ["find_backbone", "find_decoder", "find_score_head"]


def find_score_head(model: nn.Module) -> nn.Module:
    """Finds the linear head that turns hidden states into rewards.

    It is found inside wrappers too (DDP's `module`, PEFT's `base_model.model`). With PEFT's `modules_to_save` the
    result is the wrapper of the trained copy.

    Args:
        model: A causal `*ForSequenceClassification` model, wrapped or not.

    Returns:
        The module whose output has one value per position, shape `[batch, length, 1]`.

    Raises:
        ValueError: If no module of the model is called `score`, as the head of a causal sequence classifier is.
            Encoders such as BERT call it `classifier` and read the whole text at once.
    """
    heads = [module for name, module in model.named_modules() if name == "score" or name.endswith(".score")]
    if not heads:
        raise ValueError(
            f"{type(model).__name__} has no `score` head, so it gives no reward at every position. A prefix reward "
            "model is a causal sequence classifier: load it with "
            "`AutoModelForSequenceClassification.from_pretrained(name, num_labels=1)` from a decoder-only checkpoint "
            "(Llama, Qwen, GPT-2, ...)."
        )
    return heads[0]


def find_backbone(model: nn.Module) -> nn.Module:
    """Finds the decoder beneath the score head, which gives hidden states and takes a cache.

    Args:
        model: A causal `*ForSequenceClassification` model, bare or with PEFT adapters in its layers.

    Returns:
        The decoder, for example a `LlamaModel`. Adapters that live in its layers stay active.
    """
    if hasattr(model, "get_base_model"):  # PEFT
        model = model.get_base_model()  # type: ignore[operator]
    backbone = model.base_model
    if backbone is model and model.get_output_embeddings() is not None:  # type: ignore[operator]
        # Llama 4's language model gives its decoder another name than it says.
        return next(part for part in model.children() if isinstance(part, PreTrainedModel))
    return backbone  # type: ignore[return-value]


def find_decoder(policy: PreTrainedModel) -> Any:
    """Finds the module that a causal LM calls for its hidden states, which a hook can read there.

    It is the backbone, but for OPT, which calls the decoder within it.

    Args:
        policy: A causal LM.

    Returns:
        The module. The first of its outputs are the last hidden states.
    """
    backbone: Any = find_backbone(policy)
    decoder = backbone.get_decoder()
    # The decoder of a multimodal backbone, which has a configuration of its own, is not meant.
    return decoder if decoder.config is backbone.config else backbone
