"""Refuses models that cannot be read at every prefix, before any long work, and says how to fix it."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rgtg_hf.rewards.model_state import evaluating, input_device
from rgtg_hf.rewards.parts import find_backbone, find_score_head
from rgtg_hf.rewards.prefix_rewards import prefix_rewards

__all__ = ["check_positions", "check_reward_model", "learned_positions", "vocabulary_size"]

_known_causal: WeakSet[nn.Module] = WeakSet()  # tried once per model, not once per generation


def learned_positions(reward_model: PreTrainedModel) -> int | None:
    """How many tokens a decoder with learned positions (GPT-2, OPT) can read; `None` for others, which can go on."""
    decoder: Any = find_backbone(reward_model)
    positions = getattr(decoder.config.get_text_config(), "max_position_embeddings", None)
    others = [one for one in decoder.modules() if isinstance(one, nn.Embedding)]
    # Some tables have two more entries than positions. That of the tokens is another one.
    learned = [one for one in others if one is not decoder.get_input_embeddings()]
    has_table = positions is not None and any(one.num_embeddings - positions in (0, 2) for one in learned)
    return positions if has_table else None


def check_positions(longest: int | None, tokens: int) -> None:
    """Refuses texts that are longer than a reward model can read.

    Args:
        longest: What [`learned_positions`][rgtg_hf.rewards.causal_classifier.learned_positions] gives.
        tokens: The tokens of the longest text, with its candidates.

    Raises:
        ValueError: If there are more.
    """
    if longest is not None and tokens > longest:
        raise ValueError(
            f"The reward model reads at most {longest} tokens, since its positions are learned, but prompt and "
            f"response have {tokens} with the next candidate: generate fewer tokens (max_new_tokens), or shorten the "
            "prompt."
        )


def vocabulary_size(reward_model: PreTrainedModel) -> int:
    """Returns the number of token ids that the reward model knows: the rows of its input embedding."""
    return int(reward_model.get_input_embeddings().weight.shape[0])  # type: ignore[operator, union-attr, index]


def check_reward_model(reward_model: PreTrainedModel) -> None:
    """Checks that every position of a model's output is the reward of a prefix.

    That needs three things: one label, a score head that is applied at every position, and causal attention. The last
    is tested directly: the last token of a short text is changed, and what the head reads before it must not move.

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
    size = vocabulary_size(reward_model)
    ids = torch.tensor([[3, 5, 7, 11]], device=input_device(reward_model)) % size
    other = ids.clone()
    other[0, -1] = (other[0, -1] + 1) % size
    read: list[Tensor] = []
    # Not the rewards themselves: those of a fresh head may be 0 whatever the model reads.
    hook = find_score_head(reward_model).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].float()))
    try:
        with evaluating(reward_model):
            for row in (ids, other):  # one row a call: a model without a pad token refuses batches
                prefix_rewards(reward_model, row)
    finally:
        hook.remove()
    first, second = (hidden[..., :-1, :] for hidden in read)
    return torch.allclose(first, second, atol=1e-5 * float(first.abs().max()), rtol=1e-3)
