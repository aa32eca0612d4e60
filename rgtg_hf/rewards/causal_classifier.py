"""Refuses models that cannot be read at every prefix, before any long work, and says how to fix it."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import nn
from transformers import PreTrainedModel

from rgtg_hf.rewards.prefix_rewards import find_score_head, prefix_rewards

__all__ = ["check_reward_model", "vocabulary_size"]

_known_causal: WeakSet[nn.Module] = WeakSet()  # tried once per model, not once per generation


def vocabulary_size(reward_model: PreTrainedModel) -> int:
    """Returns the number of token ids that the reward model knows: the rows of its input embedding."""
    return int(reward_model.get_input_embeddings().weight.shape[0])  # type: ignore[operator, union-attr, index]


def check_reward_model(reward_model: PreTrainedModel) -> None:
    """Checks that every position of a model's output is the reward of a prefix.

    That needs three things: one label, a score head that is applied at every position, and causal attention. The last
    is tested directly: the last token of a short text is changed, and earlier rewards must not move.

    Args:
        reward_model: The model to check, in evaluation mode or not; it is left as it was.

    Raises:
        TypeError: If `reward_model` is not a torch module.
        ValueError: If the model does not have exactly one label, has no score head, or reads tokens that come later.

    Example:
        ```python
        from transformers import LlamaConfig, LlamaForSequenceClassification
        from rgtg_hf.rewards.causal_classifier import check_reward_model

        config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2, num_labels=1, pad_token_id=0)
        check_reward_model(LlamaForSequenceClassification(config))  # passes silently
        ```
    """
    if not isinstance(reward_model, nn.Module):
        raise TypeError(
            f"`reward_model` is a {type(reward_model).__name__}, but a loaded model is required: pass "
            "`AutoModelForSequenceClassification.from_pretrained(name, num_labels=1)`."
        )
    name = type(reward_model).__name__
    num_labels = getattr(getattr(reward_model, "config", None), "num_labels", None)
    if num_labels != 1:
        raise ValueError(
            f"{name} has num_labels={num_labels}, but a reward model gives one number per prefix: load or train it "
            "with num_labels=1."
        )
    find_score_head(reward_model)
    if getattr(reward_model, "peft_config", None) and reward_model.active_peft_config.is_prompt_learning:  # type: ignore[union-attr]
        raise ValueError(
            f"{name} uses prompt learning, whose virtual tokens a cached prefix does not hold. Use LoRA or another "
            "adapter that lives in the model's layers."
        )
    if reward_model not in _known_causal and not _is_causal(reward_model):
        settings: Any = getattr(reward_model.config, "quantization_config", None)
        if getattr(settings, "load_in_8bit", False) and settings.llm_int8_threshold:
            # All tokens of a call together decide which columns stay in 16 bits.
            raise ValueError(
                f"{name} is loaded in 8 bits with llm_int8_threshold={settings.llm_int8_threshold}, so the rounding "
                "of a prefix, and with it its reward, changes with the tokens that come after it: load it with "
                "BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0), or in 4 bits."
            )
        raise ValueError(
            f"{name} is not causal: the reward of a prefix changes with the tokens that come after it. Reward models "
            "for prefixes are decoder-only (Llama, Qwen, GPT-2, ...); an encoder such as BERT cannot be read this way."
        )
    _known_causal.add(reward_model)


@torch.no_grad()
def _is_causal(reward_model: PreTrainedModel) -> bool:
    was_training = reward_model.training
    reward_model.eval()
    try:
        # One row a call: a model without a pad token refuses batches.
        size = vocabulary_size(reward_model)
        device = next(reward_model.parameters()).device
        ids = torch.tensor([[3, 5, 7, 11]], device=device) % size
        other = ids.clone()
        other[0, -1] = (other[0, -1] + 1) % size
        first, second = (prefix_rewards(reward_model, row).float()[0, :-1] for row in (ids, other))
    finally:
        reward_model.train(was_training)
    return torch.allclose(first, second, atol=1e-5, rtol=1e-3)
