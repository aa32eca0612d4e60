"""Checks of the input that cost nothing, made before anything is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError

__all__ = ["check_guidance", "check_model_name", "check_same_tokenizer"]


def check_guidance(beta: float, top_k: int) -> None:
    """Checks the strength of steering and the number of candidates.

    Raises:
        UserError: If `beta` is not a finite number or `top_k` is below 1.
    """
    if not math.isfinite(beta):
        raise UserError(f"--beta is {beta}; it must be a finite number (0 does not steer, 1 to 5 is usual)")
    if top_k < 1:
        raise UserError(f"--top_k is {top_k}; at least 1 candidate per step is needed (10 is usual)")


def check_model_name(option: str, name: str) -> None:
    """Checks that a local checkpoint is there. A name of the form `owner/name` that is no path is left to the hub.

    Args:
        option: The option that gave the name, for the message.
        name: A path or a name on the hub.

    Raises:
        UserError: If `name` is a path to nothing, or to something that is not a checkpoint.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            raise UserError(f"{option}: {name} has no config.json, so it is not a saved model")
    elif path.exists():
        raise UserError(f"{option}: {name} is a file; a saved model is a folder with a config.json")
    elif not name or name.startswith((".", "/", "~", "\\")) or name.count("/") > 1 or name.endswith("/"):
        raise UserError(f"{option}: {name!r} does not exist; give a saved model's folder or a hub name `owner/name`")


def check_same_tokenizer(policy_tokenizer: Any, reward_tokenizer: Any) -> None:
    """Checks that policy and reward model read the same ids as the same text.

    Args:
        policy_tokenizer: The policy's tokenizer.
        reward_tokenizer: The reward model's.

    Raises:
        UserError: If their vocabularies differ.
    """
    policy, reward = policy_tokenizer.get_vocab(), reward_tokenizer.get_vocab()
    if policy == reward:
        return
    example = min(token for token in policy.keys() | reward.keys() if policy.get(token) != reward.get(token))
    raise UserError(
        f"policy and reward model have different vocabularies ({len(policy)} and {len(reward)} tokens; for example "
        f"{json.dumps(example)} is {policy.get(example, 'absent')} and {reward.get(example, 'absent')}); use a reward "
        "model that was trained from the policy or from a model with its tokenizer"
    )
