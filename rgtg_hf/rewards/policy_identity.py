"""Describes the policy of a steering head, and refuses other policies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rgtg_hf.rewards.parts import find_backbone

__all__ = [
    "check_decoder_only",
    "check_policy",
    "combined_fingerprint",
    "describe_policy",
    "fingerprint",
    "output_embedding",
    "tensor_fingerprint",
]

_SAMPLED_PER_TENSOR = 32


def fingerprint(backbone: nn.Module) -> str:
    """Computes a short hash of a model's weights, at next to no cost.

    It reads a few evenly spaced entries of every parameter, so a fine-tuned model or a merged adapter has another
    fingerprint. Entries are rounded to bfloat16 first, so a checkpoint has the same one in float32 and in bfloat16.

    Args:
        backbone: The decoder without its output embedding.

    Returns:
        16 hexadecimal digits.
    """
    return combined_fingerprint(
        {name: tensor_fingerprint(name, parameter) for name, parameter in backbone.named_parameters()}
    )


def tensor_fingerprint(name: str, parameter: Tensor) -> bytes:
    """Returns one parameter's share of a model's fingerprint; `name` is its name within the decoder."""
    flat = parameter.detach().reshape(-1)
    places = torch.linspace(0, len(flat) - 1, min(_SAMPLED_PER_TENSOR, len(flat)), dtype=torch.float64)
    sample = flat[places.round().long().to(flat.device)].to(torch.bfloat16).float().cpu()
    return f"{name} {tuple(parameter.shape)}".encode() + sample.numpy().tobytes()


def combined_fingerprint(tensors: Mapping[str, bytes]) -> str:
    """Combines the shares of all parameters, by name, into a model's fingerprint."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name])
    return digest.hexdigest()[:16]


def describe_policy(policy: PreTrainedModel) -> dict[str, Any]:
    """Describes a policy for its head's checkpoint.

    Args:
        policy: A causal LM.

    Returns:
        `name` (of a local checkpoint only the folder's name), `model_type`, `hidden_size`, `vocab_size` and
        `fingerprint`.

    Raises:
        TypeError: If `policy` has no output embedding, like a reward model or a bare decoder.
        ValueError: If it is an encoder-decoder.
    """
    output = output_embedding(policy)
    check_decoder_only("policy", policy)
    name = policy.config.name_or_path or ""
    config = policy.config.get_text_config()
    return {
        "name": os.path.basename(os.path.normpath(name)) if os.path.isabs(name) or os.path.isdir(name) else name,
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "vocab_size": len(output.weight),  # type: ignore[arg-type]
        "fingerprint": fingerprint(find_backbone(policy)),
    }


def check_decoder_only(name: str, model: PreTrainedModel) -> None:
    """Refuses encoder-decoders where a head is made: its rewards are those of a text that one decoder reads.

    Args:
        name: The argument that holds the model, for the error.
        model: The model.

    Raises:
        ValueError: If it is an encoder-decoder.
    """
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"`{name}` is a {type(model).__name__}, an encoder-decoder, but a head reads a decoder-only model. Steer "
            "an encoder-decoder by a reward model of its own, which reads the source text as the prompt."
        )


def output_embedding(policy: PreTrainedModel) -> nn.Module:
    """Returns the output embedding, which a causal LM has and a bare decoder lacks.

    Raises:
        TypeError: If `policy` has none.
    """
    output = policy.get_output_embeddings() if isinstance(policy, PreTrainedModel) else None
    if output is None:
        raise TypeError(
            f"`policy` is a {type(policy).__name__}, which has no output embedding, so it cannot be a policy. Load "
            "one with "
            "`AutoModelForCausalLM.from_pretrained(name)`."
        )
    return output


def check_policy(policy: PreTrainedModel, expected: dict[str, Any]) -> None:
    """Refuses every policy but the one that a head was trained on.

    Args:
        policy: The policy.
        expected: The description of the head's own policy, see [`describe_policy`].

    Raises:
        ValueError: If model type, hidden size, vocabulary or weights differ.
    """
    found = describe_policy(policy)
    reasons = {
        "model_type": "model type",
        "hidden_size": "hidden size",
        "vocab_size": "vocabulary size",
        "fingerprint": "fingerprint of the weights",
    }
    for key, words in reasons.items():
        if found[key] != expected[key]:
            raise ValueError(
                f"This head belongs to the policy {expected['name'] or '(unnamed)'}, whose {words} is "
                f"{expected[key]}; the policy given ({found['name'] or 'unnamed'}) has {found[key]}. A head reads "
                "the hidden states of the very model that it was trained on: load that one, or train a head for this."
            )
