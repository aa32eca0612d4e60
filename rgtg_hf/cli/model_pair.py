"""A policy and its reward model on the command line: the options of both, and how they are loaded."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from typing import Any

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.option_checks import check_same_tokenizer
from rgtg_hf.cli.parser import LineParser
from rgtg_hf.config import (
    CHOICES,
    GUIDANCE_CONFIG_NAME,
    OF_CALLS,
    RewardGuidanceConfig,
    RewardModelSource,
    resolve_guidance,
)

__all__ = [
    "add_guidance_options",
    "add_loading_options",
    "add_model_options",
    "add_model_settings",
    "add_sampling_options",
    "is_steering_head",
    "load_models",
    "load_policy",
    "may_be_read_as_head",
    "resolve_options",
]

_OF_SEARCH = ("search", "num_rows", "block_size", "max_rows", "search_return", "soften")
# A search by blocks does not obey these, which say how far tokens are steered.
_OF_TOKENS = ("beta", "value_beta", "min_entropy", "max_increment", "max_step_kl")


def add_model_options(parser: LineParser) -> None:
    """Adds the options of the commands that generate text with one policy and one reward model."""
    add = parser.group("models")
    add("--model", required=True, help="the policy: a folder or a hub name")
    add("--reward_model", required=True, help="a reward model with the policy's tokenizer, or a steering head")
    add_loading_options(add)


def add_guidance_options(parser: LineParser, *names: str, search_by_default: bool = False) -> None:
    """Adds settings of guidance. An option that is not given is unset: see [`resolve_options`]."""
    of_guidance = parser.group(
        "guidance",
        f"Unset, these and those of search are as in the {GUIDANCE_CONFIG_NAME} of the reward model.",
    )
    when = "\n(the default where --greedy, --beta or the like is given, and with a steering head)"
    of_search = parser.group(
        "search",
        "Rows are selected after every block of tokens. With `tokens`, every token is guided instead"
        f"{when if search_by_default else ''}.",
    )
    for one in fields(RewardGuidanceConfig):
        if one.name in names:
            default, choices = one.metadata["default"], CHOICES.get(one.name)
            kind: Any = None if choices else one.metadata["parse"]
            if one.name == "search" and search_by_default:
                default = "best"
            more = {"type": kind, "choices": choices, "default": argparse.SUPPRESS, "shown": default}
            add = of_search if one.name in _OF_SEARCH else of_guidance
            add(f"--{one.name}", help=one.metadata["summary"], **more)


def add_model_settings(add: Callable[..., Any], *names: str) -> None:
    """Adds settings that are, unless they are given, those saved beside a model, by the function of their group."""
    for one in fields(RewardGuidanceConfig):
        if one.name in names:
            kind, summary = one.metadata["parse"], one.metadata["summary"]
            add(f"--{one.name}", type=kind, default=argparse.SUPPRESS, shown="the model's", help=summary)


def add_sampling_options(parser: LineParser, max_new_tokens: int) -> Callable[..., Any]:
    """Adds the options that say how responses are sampled, and returns the function that adds more of them."""
    add = parser.group("sampling")
    add("--max_new_tokens", type=int, default=max_new_tokens, help="most tokens per response")
    add("--greedy", action="store_true", help="choose the most likely candidate instead of sampling")
    add("--seed", type=int, default=0, help="seed of sampling")
    add("--no_chat_template", action="store_true", help="continue the prompt as it is")
    return add


def resolve_options(
    options: argparse.Namespace, reward_model: str | None, search_by_default: bool = False
) -> RewardGuidanceConfig:
    """Gives the settings of guidance that were not given their values, in `options` too.

    Args:
        options: The options. Settings among them win over the reward model's `guidance_config.json`.
        reward_model: The reward model's folder or hub name, if there is one.
        search_by_default: Whether `search` is `"best"` where neither it is set nor how far tokens are steered.
            `options` tells by the same name whether that is so.

    Returns:
        All settings.

    Raises:
        UserError: If a setting is out of range, or the file is damaged.
    """
    given = {name: getattr(options, name) for name in OF_CALLS if hasattr(options, name)}
    try:
        found = resolve_guidance(given, source=RewardModelSource(reward_model) if reward_model else None)
    except (TypeError, ValueError) as error:
        raise UserError(re.sub(r"`(\w+)`", r"--\1", str(error), count=1)) from error
    from_file = {name: getattr(found.config, name) for name, origin in found.sources.items() if " of " in origin}
    if from_file:
        print(f"from {GUIDANCE_CONFIG_NAME} of {reward_model}: {from_file}", file=sys.stderr)
    unset = all(found.sources[name] == "default" for name in ("search", *_OF_TOKENS))
    options.search_by_default = search_by_default and unset
    if options.search_by_default:
        found.config.search = "best"
    for name in OF_CALLS:
        setattr(options, name, getattr(found.config, name))
    return found.config


def add_loading_options(add: Callable[..., Any]) -> None:
    """Adds the options that say how models are loaded, by the function of their group."""
    add("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"], help="precision")
    add("--device", shown="the GPU if there is one", help="cpu, cuda:1 and so on")
    add("--trust_remote_code", action="store_true", help="run code that comes with a model that you trust")


def load_policy(options: argparse.Namespace) -> tuple[Any, Any]:
    """Loads a policy and its tokenizer, which gets a pad token if it has none.

    Args:
        options: With `model`, `dtype`, `device` and `trust_remote_code`.

    Raises:
        UserError: If it cannot be loaded, or is a reward model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from rgtg_hf.rewards.load import load_model, load_tokenizer

    trust = {"trust_remote_code": options.trust_remote_code}
    with blame_input(f"--model: {options.model} cannot be loaded"):
        tokenizer = load_tokenizer(options.model, **trust)
        policy = load_model(AutoModelForCausalLM, options.model, dtype=options.dtype, **trust)
    if any(kind.endswith("ForSequenceClassification") for kind in policy.config.architectures or []):
        raise UserError(f"--model: {options.model} is a reward model; give the language model that is to be steered")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return policy.to(options.device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer


def load_models(options: argparse.Namespace, option: str = "--reward_model") -> tuple[Any, Any, Any]:
    """Loads a policy and a reward model that reads the same tokens. A steering head is attached to the policy.

    Args:
        options: As for [`load_policy`], with `reward_model`.
        option: The option that names the reward model, for errors.

    Returns:
        The policy, its tokenizer, and the reward model.

    Raises:
        UserError: If a model cannot be loaded, the tokenizers differ, or the head belongs to another policy.
    """
    from rgtg_hf.rewards.load import load_reward_model, load_tokenizer

    trust = {"trust_remote_code": options.trust_remote_code}
    is_head = may_be_read_as_head(options.reward_model)
    if not is_head:  # a head has no tokenizer of its own; differing tokenizers are reported before models are loaded
        with blame_input(f"--model: {options.model} cannot be loaded"):
            tokenizer = load_tokenizer(options.model, **trust)
        with blame_input(f"{option}: {options.reward_model} cannot be loaded"):
            reward_tokenizer = load_tokenizer(options.reward_model, **trust)
        check_same_tokenizer(tokenizer, reward_tokenizer)
    policy, tokenizer = load_policy(options)
    with blame_input(f"{option}: {options.reward_model} cannot be loaded"):
        reward_model = load_reward_model(options.reward_model, dtype=options.dtype, **trust).to(policy.device)
    if is_head:
        with blame_input(f"{option}: {options.reward_model} does not fit the policy"):
            reward_model.attach(policy)
    return policy, tokenizer, reward_model


def may_be_read_as_head(name: str) -> bool:
    """Whether a folder or a hub name holds a steering head, as far as its configuration can be read.

    An adapter may have none. Other faults are reported where the model is loaded.
    """
    with suppress(OSError, ValueError):
        return is_steering_head(name)
    return False


def is_steering_head(name: str) -> bool:
    """Whether a folder or a hub name holds a steering head, judged by its configuration.

    Raises:
        OSError: If there is no configuration.
        ValueError: If it is damaged.
    """
    from transformers import AutoConfig

    from rgtg_hf.rewards.load import reading
    from rgtg_hf.rewards.next_token import NextTokenRewardConfig

    with reading(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    return isinstance(config, NextTokenRewardConfig) and config.policy is not None
