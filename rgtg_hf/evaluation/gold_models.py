"""Loads a gold reward by name: a built-in measure, a reward model, or a function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch

from rgtg_hf.arguments import shown
from rgtg_hf.evaluation.gold import flesch_reading_ease, vader_sentiment

__all__ = ["BUILT_IN", "Gold", "load_gold", "rate"]

Gold = Callable[[list[str], list[str]], Sequence[float]]
BUILT_IN = {"vader": vader_sentiment, "flesch": flesch_reading_ease}


def load_gold(name: str, *, device: Any = None, trust_remote_code: bool = False) -> Gold:
    """Loads a gold reward as a function of prompts and responses, as texts, that returns one number each.

    Args:
        name: `"vader"` (sentiment) or `"flesch"` (reading ease); or `"module:function"` for a function
            `(prompts, responses) -> rewards` of two lists of strings; or the folder or hub name of a reward model with
            one label. A reward model reads prompt and response through its own tokenizer, with its chat template if it
            has one.
        device: Device of a reward model.
        trust_remote_code: Whether to run code that comes with a reward model.

    Returns:
        The function.

    Raises:
        ImportError: If a module is missing.
        OSError: If the reward model does not exist.
        ValueError: If the module does not have the function, or the model has more than one label.

    Example:
        ```python
        from rgtg_hf.evaluation.gold_models import load_gold

        gold = load_gold("vader")
        assert gold(["How was it?"], ["Wonderful!"])[0] > 0
        ```
    """
    if name in BUILT_IN:
        built_in = BUILT_IN[name]
        built_in([])  # raises now if its package is missing
        return lambda prompts, responses: built_in(responses)
    module, colon, function = name.partition(":")
    if colon:
        found = getattr(import_module(module), function, None)
        if not callable(found):
            raise ValueError(f"The module {module} has no function {function!r}.")
        return found
    return _reward_model(name, device, trust_remote_code)


def rate(reward: Gold, prompts: list[str], responses: list[str]) -> list[float]:
    """Rates responses, and refuses what is not one finite number for each.

    Raises:
        ValueError: If the reward returns something else.
    """
    asked = f"{len(responses)} response{'s' * (len(responses) != 1)}"
    found = reward(prompts, responses)
    try:
        rewards = [float(value) for value in found]
    except (TypeError, ValueError):
        what = f"The reward returned {shown(found)} for {asked}"
        raise ValueError(f"{what}, but a list of numbers is required.") from None
    if len(rewards) != len(responses):
        raise ValueError(f"The reward returned {len(rewards)} numbers for {asked}.")
    bad = next((place for place, value in enumerate(rewards) if not math.isfinite(value)), None)
    if bad is not None:
        raise ValueError(
            f"The reward is {rewards[bad]} for the response {shown(responses[bad])}, but it must be finite."
        )
    return rewards


def _reward_model(name: str, device: Any, trust_remote_code: bool) -> Gold:
    from rgtg_hf.rewards.load import load_reward_model, load_tokenizer

    model = load_reward_model(name, dtype="auto", trust_remote_code=trust_remote_code).to(device).eval()
    if model.config.num_labels != 1:
        raise ValueError(f"The gold reward has {model.config.num_labels} labels: use a model with num_labels=1.")
    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)

    @torch.no_grad()
    def judge(prompts: list[str], responses: list[str]) -> list[float]:
        rewards = []
        # One by one: a classifier finds the end of a text by its pad token, which may be missing or be the end token.
        for prompt, response in zip(prompts, responses, strict=True):
            ids = torch.tensor([_read(tokenizer, prompt, response)], device=model.device)
            rewards.append(float(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0]))
        return rewards

    return judge


def _read(tokenizer: Any, prompt: str, response: str) -> list[int]:
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        return tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    return (
        tokenizer(prompt, response)["input_ids"] if tokenizer.sep_token else tokenizer(prompt + response)["input_ids"]
    )
