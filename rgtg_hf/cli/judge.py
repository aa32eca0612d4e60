"""The judge of responses that a command was given: loaded by name, and tried once before anything is generated."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from rgtg_hf.arguments import near_names
from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.evaluation.gold_models import BUILT_IN, Gold, load_gold, rate

__all__ = ["describe_rewards", "load_judge"]

_PROMPT, _RESPONSE = "How was it?", "It was fine."


def load_judge(name: str, *, option: str = "--gold", device: Any = None, trust_remote_code: bool = False) -> Gold:
    """Loads the gold reward, and lets it judge one response.

    Args:
        name: As for [`load_gold`][rgtg_hf.evaluation.gold_models.load_gold]. A module may be in the current folder.
        option: The option that names it, for errors.
        device: Device of a reward model.
        trust_remote_code: Whether to run code that comes with a reward model.

    Returns:
        The gold reward.

    Raises:
        UserError: If there is no such judge, or it does not return one number for a response.
    """
    _check_name(name, option)
    with blame_input(f"{option}: it cannot be loaded", (ImportError, OSError, ValueError)):
        gold = load_gold(name, device=device, trust_remote_code=trust_remote_code)
    try:
        rate(gold, [_PROMPT], [_RESPONSE])
    except Exception as error:  # whatever a user's function raises
        raise UserError(
            f"{option}: {name} failed on a list of one prompt and a list of one response, {_RESPONSE!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return gold


def describe_rewards(rewards: Sequence[float]) -> str:
    """The range and the mean of rewards, in words."""
    return f"rewards {min(rewards):.3g} to {max(rewards):.3g}, mean {fmean(rewards):.3g}"


def _check_name(name: str, option: str) -> None:
    """Finds the mistakes in a name that would otherwise be looked for on the hub."""
    module, colon, function = name.partition(":")
    if colon and not Path(name).exists():
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # as `python -m` does
        _check_function(module, function, option)
    elif name not in BUILT_IN and "/" not in name and not Path(name).exists():
        known = f"{', '.join(BUILT_IN)}, module:function, a folder, or owner/name on the hub"
        raise UserError(f"{option}: there is no judge {name!r}. {near_names([name], BUILT_IN)}Choose from: {known}")


def _check_function(module: str, function: str, option: str) -> None:
    try:
        missing = find_spec(module) is None
    except (ImportError, ValueError):  # of the package around it
        missing = True
    if missing:
        raise UserError(f"{option}: there is no module {module!r} in the current folder or among the installed ones")
    try:
        found = import_module(module)
    except Exception as error:  # whatever a user's module raises
        raise UserError(f"{option}: {module} cannot be imported: {type(error).__name__}: {error}") from error
    own = [name for name, value in vars(found).items() if callable(value)]
    if function not in own:
        near = near_names([function], own)
        raise UserError(f"{option}: the module {module} has no function {function!r}. {near}".rstrip())
