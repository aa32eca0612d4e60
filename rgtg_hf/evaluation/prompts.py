"""Prompts as one left-padded batch, as decoding reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["Prompt", "as_messages", "encode_batch", "last_message", "with_instruction"]

Prompt = str | list[dict[str, str]]


def as_messages(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt as a conversation: a text is the user's message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def last_message(prompt: Prompt) -> str:
    """A prompt as a text: of a conversation, the last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def with_instruction(prompt: Prompt, instruction: str) -> Prompt:
    """A prompt whose text, or last message, begins with an instruction such as "Answer cheerfully."."""
    if isinstance(prompt, str):
        return f"{instruction}\n\n{prompt}"
    return [*prompt[:-1], prompt[-1] | {"content": f"{instruction}\n\n{prompt[-1]['content']}"}]


def encode_batch(tokenizer: Any, prompts: Sequence[Prompt], *, chat_template: bool = True) -> Any:
    """Turns prompts into one left-padded batch.

    Args:
        tokenizer: The policy's tokenizer. It is set to pad on the left, with the end token if it has no pad token.
        prompts: Texts or lists of messages.
        chat_template: Render the prompts with the tokenizer's chat template, if it has one; a text becomes the user's
            message. Otherwise texts are continued as they are.

    Returns:
        A `BatchEncoding` of tensors `input_ids` and `attention_mask`, each of shape `[prompts, length]`.

    Raises:
        ValueError: If the chat template refuses a prompt, or there is none and a prompt is a list of messages.

    Example:
        ```python
        from rgtg_hf.evaluation.prompts import encode_batch

        def lengths(tokenizer):
            return encode_batch(tokenizer, ["Hello!", "How are you?"])["attention_mask"].sum(-1)
        ```
    """
    from jinja2 import TemplateError

    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if chat_template and tokenizer.chat_template:
        messages = [as_messages(prompt) for prompt in prompts]
        try:
            return tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
            )
        except TemplateError as error:
            raise ValueError(f"the tokenizer's chat template refuses a prompt: {error}") from error
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError("a prompt is a list of messages, but the tokenizer has no chat template: give text")
    return tokenizer(list(prompts), padding=True, return_tensors="pt")
