"""Policies on vLLM whose logits hold a steering head's term, at no cost.

A head's advantages are A(h, v) = e_v · d(h), with the policy's own output embeddings e_v; its logits are e_v · h. So

    logits(v) + beta · A(h, v)  =  e_v · [h + beta · d(h)]

and the policy's last step, with all that vLLM does to it (sharding it over GPUs, say), is left as it is.

    vllm serve POLICY --hf-overrides '{"architectures": ["SteeredLlamaForCausalLM"]}' \\
        --additional-config '{"rgtg": {"head": "my-head", "head_beta": 3.0}}'
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from rgtg_hf.config import RewardModelSource, resolve_guidance
from rgtg_hf.rewards.load import load_model
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.policy_identity import combined_fingerprint, tensor_fingerprint
from rgtg_hf.serving.settings import ServerSettings

__all__ = [
    "SteeredLlamaForCausalLM",
    "SteeredMistralForCausalLM",
    "SteeredQwen2ForCausalLM",
    "SteeredQwen3ForCausalLM",
]

_DECODER = "model."  # where these policies' checkpoints keep their decoder


class HeadSteering:
    """Adds a steering head's term to a policy's logits. Stands before the policy's class.

    Args:
        vllm_config: The engine's configuration; `additional_config["rgtg"]` names the head and its beta.
        prefix: As vLLM gives it.

    Raises:
        ValueError: If there is no head, it belongs to another policy, or the policy does more than a linear map to
            its last hidden state.
    """

    _head: Any

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        settings = ServerSettings.from_additional_config(vllm_config.additional_config, "head")
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        processor = getattr(self, "logits_processor", None)  # only where the last layers are
        if processor is not None and (processor.scale != 1.0 or processor.soft_cap is not None):
            raise ValueError(
                f"This {type(self).__name__} scales or caps its logits, so a steering head's term cannot be added to "
                "its last hidden state."
            )
        config = vllm_config.model_config.hf_text_config
        head = _load_head(settings)
        self._policy = _checked_policy(head, settings, config)
        source = RewardModelSource(str(settings.head))
        self.head_beta = resolve_guidance({"beta": settings.head_beta}, source=source).config.beta
        # Past registration: its weights are no part of the policy's checkpoint.
        device = vllm_config.device_config.device
        object.__setattr__(self, "_head", head.score.to(device))

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """The policy's logits with the head's term, shape `[rows, vocabulary]`."""
        return super().compute_logits(self._steered(hidden_states))  # type: ignore[misc]

    def compute_logits_local(self, hidden_states: Tensor) -> Tensor:
        """The same for this GPU's share of the vocabulary."""
        return super().compute_logits_local(self._steered(hidden_states))  # type: ignore[misc]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Loads the policy's weights and looks whether they are those that the head was trained on."""
        shares: dict[str, bytes] = {}
        loaded = super().load_weights(_look_at(weights, shares))  # type: ignore[misc]
        found, expected = combined_fingerprint(shares), self._policy["fingerprint"]
        if found != expected:
            raise ValueError(
                f"The head belongs to the policy {self._policy['name'] or '(unnamed)'}, whose weights have the "
                f"fingerprint {expected}; those of this policy have {found}. A head reads the hidden states of the "
                "very model that it was trained on: serve that one, or train a head for this."
            )
        return loaded

    def _steered(self, hidden: Tensor) -> Tensor:
        directions = self._head.directions(hidden)
        return (hidden + self.head_beta * directions).to(hidden.dtype)


def _load_head(settings: ServerSettings) -> NextTokenRewardModel:
    assert settings.head is not None
    with torch.device("cpu"):
        head = load_model(NextTokenRewardModel, settings.head, dtype=torch.float32)
    if head.config.policy is None:
        raise ValueError(
            f"{settings.head} is a reward model with a backbone of its own: name it as `reward_model` in place of "
            "`head`, and load the logits processor."
        )
    return head.requires_grad_(False)


def _checked_policy(head: NextTokenRewardModel, settings: ServerSettings, config: Any) -> dict[str, Any]:
    """The head's description of its policy, if this policy has its sizes."""
    expected = head.config.policy
    assert expected is not None
    for name in ("hidden_size", "vocab_size"):
        if expected[name] != getattr(config, name):
            raise ValueError(
                f"The head {settings.head} belongs to the policy {expected['name'] or '(unnamed)'} with "
                f"{name}={expected[name]}; the policy served has {getattr(config, name)}."
            )
    return expected


def _look_at(weights: Iterable[tuple[str, Tensor]], shares: dict[str, bytes]) -> Iterator[tuple[str, Tensor]]:
    """Passes the checkpoint's tensors on, and notes what the decoder's have in the fingerprint."""
    for name, tensor in weights:
        if name.startswith(_DECODER):
            inner = name.removeprefix(_DECODER)
            shares[inner] = tensor_fingerprint(inner, tensor)
        yield name, tensor


class SteeredLlamaForCausalLM(HeadSteering, LlamaForCausalLM):
    """Llama and its like with a steering head."""


class SteeredMistralForCausalLM(HeadSteering, MistralForCausalLM):
    """Mistral with a steering head."""


class SteeredQwen2ForCausalLM(HeadSteering, Qwen2ForCausalLM):
    """Qwen2 and Qwen2.5 with a steering head."""


class SteeredQwen3ForCausalLM(HeadSteering, Qwen3ForCausalLM):
    """Qwen3 with a steering head."""
