"""Writes linear steering heads as a LoRA adapter of their policy, which a server loads beside it and uses per request.

A LoRA adapter adds B A h to what a layer makes of h. On the output embedding, with logits s E h, heads with the
advantages A_i(h, v) = e_v · P_iᵀ W_i h are such an adapter:

    B = [ beta_1 E P_1ᵀ, beta_2 E P_2ᵀ, ... ] / s          A = [ W_1; W_2; ... ]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.merge import check_finite, low_rank_change, steered_logits
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.policy_identity import describe_policy

__all__ = ["HeadAdapter", "heads_as_lora"]


@dataclass(frozen=True)
class HeadAdapter:
    """A LoRA adapter of a policy's output embedding.

    Attributes:
        config: PEFT's configuration. Its rank `r` is what a server has to allow.
        weights: A, shape `[rank, hidden_size]`, and B, shape `[vocabulary, rank]`, by their names in PEFT's files.
    """

    config: LoraConfig
    weights: dict[str, Tensor]

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes the adapter as PEFT does, into a folder that is made if needed."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        self.config.save_pretrained(str(folder))


@torch.no_grad()
def heads_as_lora(policy: PreTrainedModel, heads: Sequence[tuple[NextTokenRewardModel, float]]) -> HeadAdapter:
    """Makes a LoRA adapter that steers a policy over its whole vocabulary.

    PEFT and vLLM load it like any other. One server can hold several, of other heads or of other strengths, and each
    request names the one that steers it, or none.

    Args:
        policy: The policy. It is left as it is.
        heads: Steering heads without nonlinearity (the default), and the beta of each. Their ranks add up.

    Returns:
        The adapter, in the policy's dtype. Save it with `save_pretrained`.

    Raises:
        TypeError: If the policy is not a causal LM, or `heads` is not a list of pairs of a head and a number.
        ValueError: If there is no head, a head is not linear or belongs to another policy, a beta or the weights that
            it makes are not finite, or if the policy does more to its last hidden state than a linear map (soft-capped
            logits, for example).

    Example:
        ```python
        from transformers import LlamaConfig, LlamaForCausalLM
        from rgtg_hf import NextTokenRewardModel
        from rgtg_hf.rewards.lora import heads_as_lora

        policy = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32,
                                              num_hidden_layers=1, num_attention_heads=2))
        head = NextTokenRewardModel.from_policy(policy, rank=8)
        heads_as_lora(policy, [(head, 1.5)]).save_pretrained("kind")
        ```
    """
    change = low_rank_change(policy, heads)
    steered = steered_logits(policy, change)
    output = policy.get_output_embeddings()
    down = change.down.to(policy.dtype)
    up = (change.up / steered.scale).to(policy.dtype)
    check_finite(heads, down, up, steered.logits)
    adapted = output.register_forward_hook(  # type: ignore[union-attr]
        lambda _, inputs, logits: logits + F.linear(F.linear(inputs[0], down), up)
    )
    try:
        steered.check(policy, policy(steered.ids).logits)
    finally:
        adapted.remove()
    layer = next(name for name, module in policy.named_modules() if module is output)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=describe_policy(policy)["name"],  # never a path of this machine
        r=len(down),
        lora_alpha=len(down),
        target_modules=[layer],
        inference_mode=True,
    )
    named = {f"base_model.model.{layer}.lora_{name}.weight": weight for name, weight in (("A", down), ("B", up))}
    return HeadAdapter(config, {name: weight.contiguous().cpu() for name, weight in named.items()})
