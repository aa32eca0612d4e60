"""Errors that the user can correct. They end a command with one line on stderr and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["UserError", "blame_input"]


class UserError(Exception):
    """An error that the user can correct. The message says what was found, what is required and how to fix it."""


@contextmanager
def blame_input(what: str, errors: tuple[type[Exception], ...] = (OSError, ValueError)) -> Iterator[None]:
    """Turns a library's errors about the user's input into [`UserError`].

    Args:
        what: The beginning of the message: what failed.
        errors: The exceptions that bad input can cause.
    """
    try:
        yield
    except errors as error:
        # Some libraries describe the fault only in the cause. Others add to it, for example which row has it.
        cause = error.__cause__
        reason = error if cause is None or str(cause) in str(error) else cause
        lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
        raise UserError(f"{what}: {' '.join(lines) or type(reason).__name__}") from error
