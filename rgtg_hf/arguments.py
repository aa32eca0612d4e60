"""Checks of single arguments: one sentence each, that names the argument, what it is and what it must be."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real
from typing import Any

__all__ = ["check_count", "check_number", "check_switch", "is_finite", "near_names", "own_number", "shown"]


def check_number(name: str, value: Any) -> None:
    """Refuses what is no finite real number.

    Raises:
        TypeError: If it is no number (a boolean is none either).
        ValueError: If it is not finite, as a float.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` is {shown(value)}, but a number is required.")
    if not is_finite(value):
        raise ValueError(f"`{name}` is {shown(value)}, but a finite number is required.")


def check_count(name: str, value: Any, otherwise: str = "") -> None:
    """Refuses what is no integer of at least 1. `otherwise` says what else may be given.

    Raises:
        TypeError: If it is no integer (a boolean is none either).
        ValueError: If it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` is {shown(value)}, but must be an integer of at least 1{otherwise}.")
    if value < 1:
        raise ValueError(f"`{name}` is {shown(value)}, but must be at least 1{otherwise}.")


def check_switch(name: str, value: Any) -> None:
    """Refuses what is neither `True` nor `False`: a text such as "no" would count as true.

    Raises:
        TypeError: If it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` is {shown(value)}, but True or False is required.")


def is_finite(number: float) -> bool:
    """Whether a number is finite as a float, which an integer of hundreds of digits is not."""
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def own_number(value: Any) -> Any:
    """A number of numpy as Python's own, which JSON can hold; anything else as it is."""
    return value.item() if isinstance(value, Real) and hasattr(value, "item") else value


def near_names(unknown: Iterable[str], known: Iterable[str]) -> str:
    """A sentence about names that may have been meant, in front of one that lists all; empty if none is near."""
    names = list(known)
    near = [match for name in unknown for match in get_close_matches(name, names, n=2)]
    return f"Did you mean {' or '.join(f'`{name}`' for name in dict.fromkeys(near))}? " if near else ""


def shown(value: Any) -> str:
    """A value on one line, however long it is."""
    if isinstance(value, int) and abs(value) > 10**20:
        return f"an integer of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
