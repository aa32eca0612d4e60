"""Computes every prefix's reward in one forward pass.

A causal sequence classifier computes its score head at every position and then keeps a single one of them
("pooling"). This package uses the positions that it throws away: the score at position i has read the tokens up to i
and nothing else, so it is the reward of that prefix.

The scores are taken by a forward hook on the head, from inside the model's own forward call. That keeps wrappers
that act on that call (DistributedDataParallel, FSDP2, gradient checkpointing, PEFT) in charge of everything.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rgtg_hf.rewards.parts import find_score_head
from rgtg_hf.rewards.value_model import as_reward_model, is_value_model

__all__ = ["capture_scores", "prefix_rewards", "return_distributions"]


@contextmanager
def capture_scores(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what the score head gives at all positions in every forward call of `model` made inside the context.

    Args:
        model: A causal `*ForSequenceClassification` model, wrapped or not.

    Yields:
        A list that gains one tensor of shape `[batch, length, labels]` per forward call, with gradients where enabled.
    """
    captured: list[Tensor] = []
    thread = threading.get_ident()

    def capture(_module: nn.Module, _arguments: object, output: Tensor) -> None:
        # A hook runs for the calls of all threads, and another thread may be reading another text.
        if threading.get_ident() == thread:
            captured.append(output)

    handle = find_score_head(model).register_forward_hook(capture)
    try:
        yield captured
    finally:
        handle.remove()


def prefix_rewards(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, **model_kwargs: object
) -> Tensor:
    """Computes the rewards of all prefixes of a batch of sequences, r(x, y_<=i) for every i, in one forward pass.

    Args:
        model: A causal `*ForSequenceClassification` model with `num_labels=1`, wrapped or not. The rewards of a value
            model are its mean returns; [`as_reward_model`][rgtg_hf.rewards.value_model.as_reward_model] gives others.
        input_ids: Token ids of prompt and response, shape `[batch, length]`.
        attention_mask: 1 for tokens and 0 for padding, shape `[batch, length]`. Defaults to no padding.
        model_kwargs: Passed on to the model, for example `position_ids` (needed with left padding by models that
            count positions from the left edge, such as GPT-2).

    Returns:
        Rewards of shape `[batch, length]` in the model's dtype: entry `[b, i]` is the reward of the first `i + 1`
        tokens of row `b`. Entries at padded positions mean nothing.

    Raises:
        TypeError: If `model` is not a model, or if the ids or the mask are not tensors, the ids of integers.
        ValueError: If the ids do not have two dimensions of at least 1, or are not all in the model's vocabulary; if
            the mask has another shape; or if the model has no score head.

    Example:
        ```python
        import torch
        from transformers import LlamaConfig, LlamaForSequenceClassification
        from rgtg_hf.rewards.prefix_rewards import prefix_rewards

        config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2, num_labels=1, pad_token_id=0)
        model = LlamaForSequenceClassification(config)
        rewards = prefix_rewards(model, torch.tensor([[5, 6, 7]]))
        assert rewards.shape == (1, 3)
        ```
    """
    _check_inputs(model, input_ids, attention_mask)
    model = as_reward_model(model)
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    with capture_scores(model) as captured:
        model(input_ids=input_ids, attention_mask=attention_mask, **model_kwargs)
    return captured[0][..., 0]


def return_distributions(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None, **model_kwargs: object
) -> Tensor:
    """Computes p(z | x, y_<=i), how likely each return is after every prefix, in one forward pass of a value model.

    Args:
        model: A value model. [`bins_of`][rgtg_hf.rewards.value_model.bins_of] gives the return of each bin.
        input_ids: Token ids of prompt and response, shape `[batch, length]`.
        attention_mask: 1 for tokens and 0 for padding, shape `[batch, length]`. Defaults to no padding.
        model_kwargs: Passed on to the model.

    Returns:
        Probabilities, float32, shape `[batch, length, bins]`. Entries at padded positions mean nothing.

    Raises:
        TypeError: As [`prefix_rewards`].
        ValueError: As [`prefix_rewards`], and if the model is no value model.

    Example:
        ```python
        import torch
        from transformers import LlamaConfig, LlamaForSequenceClassification
        from rgtg_hf.rewards.prefix_rewards import return_distributions

        config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2, num_labels=21, pad_token_id=0, value_range=[-1.0, 1.0])
        returns = return_distributions(LlamaForSequenceClassification(config), torch.tensor([[5, 6, 7]]))
        assert returns.shape == (1, 3, 21)
        ```
    """
    _check_inputs(model, input_ids, attention_mask)
    if not is_value_model(model):
        raise ValueError(
            f"`model` is a {type(model).__name__} without `value_range` in its configuration, but a value model is "
            "required: `PrefixValueTrainer` trains one."
        )
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    with capture_scores(model) as captured:
        model(input_ids=input_ids, attention_mask=attention_mask, **model_kwargs)
    return captured[0].float().softmax(-1)


def _check_inputs(model: object, input_ids: object, attention_mask: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` is a {type(model).__name__}, but a loaded reward model is required.")
    if not isinstance(input_ids, Tensor) or input_ids.dtype not in (torch.long, torch.int):
        found = input_ids.dtype if isinstance(input_ids, Tensor) else type(input_ids).__name__
        raise TypeError(f"`input_ids` is a {found}, but a tensor of token ids (int64) is required.")
    if input_ids.dim() != 2 or not input_ids.numel():
        raise ValueError(f"`input_ids` has shape {tuple(input_ids.shape)}, but [batch, length] is required.")
    inner = next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)
    size = torch.inf if inner is None else inner.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr, index]
    if bool((input_ids < 0).any()) or int(input_ids.max()) >= size:
        raise ValueError(
            f"`input_ids` has ids from {int(input_ids.min())} to {int(input_ids.max())}, but the model knows 0 to "
            f"{size - 1}: encode the text by its own tokenizer."
        )
    if attention_mask is not None and not isinstance(attention_mask, Tensor):
        raise TypeError(f"`attention_mask` is a {type(attention_mask).__name__}, but a tensor is required.")
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"`attention_mask` has shape {tuple(attention_mask.shape)}, but that of `input_ids`, "
            f"{tuple(input_ids.shape)}, is required."
        )
