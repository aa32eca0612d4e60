"""Quick checks of options, made before any model is loaded."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError

__all__ = ["check_at_least_one", "check_guidance", "check_model_name", "check_same_tokenizer"]


def check_at_least_one(options: argparse.Namespace, *names: str) -> None:
    """Checks that options are 1 or more.

    Raises:
        UserError: If one is below 1.
    """
    for name in names:
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is {getattr(options, name)}; it must be at least 1")


def check_guidance(beta: float, top_k: int) -> None:
    """Checks the strength of steering and the number of candidates.

    Raises:
        UserError: If `beta` is not a finite number or `top_k` is below 1.
    """
    if not math.isfinite(beta):
        raise UserError(f"--beta is {beta}; it must be a finite number (0 does not steer, 1 to 5 is usual)")
    if top_k < 1:
        raise UserError(f"--top_k is {top_k}; it must be at least 1 (10 is usual)")


def check_model_name(option: str, name: str) -> None:
    """Checks that a local checkpoint exists. A name `owner/name` that is not a path is taken for a hub name.

    Args:
        option: The option that gave the name, for the message.
        name: A path or a name on the hub.

    Raises:
        UserError: If nothing is at the path, or something that is not a checkpoint.
    """
    if not name:  # an empty path would be the working directory
        raise UserError(f"{option} is empty; give a saved model's folder or a hub name `owner/name`")
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            raise UserError(f"{option}: {name} has no config.json, so it is not a saved model")
    elif path.exists():
        raise UserError(f"{option}: {name} is a file; a saved model is a folder with a config.json")
    elif name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or name.endswith("/"):
        raise UserError(f"{option}: {name!r} does not exist; give a saved model's folder or a hub name `owner/name`")


def check_same_tokenizer(policy_tokenizer: Any, other_tokenizer: Any, other: str = "reward model") -> None:
    """Checks that the policy and another model have the same vocabulary.

    Args:
        policy_tokenizer: The policy's tokenizer.
        other_tokenizer: The other model's tokenizer.
        other: What the other model is, for the message.

    Raises:
        UserError: If their vocabularies differ.
    """
    policy, theirs = policy_tokenizer.get_vocab(), other_tokenizer.get_vocab()
    if policy == theirs:
        return
    example = min(token for token in policy.keys() | theirs.keys() if policy.get(token) != theirs.get(token))
    raise UserError(
        f"policy and {other} have different vocabularies ({len(policy)} and {len(theirs)} tokens; for example "
        f"{json.dumps(example)} is {policy.get(example, 'absent')} and {theirs.get(example, 'absent')}); use a "
        f"{other} that was trained from the policy or from a model with its tokenizer"
    )
