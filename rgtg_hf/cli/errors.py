"""Mistakes of the user, which end a command with one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

__all__ = ["LineParser", "UserError", "blame_input"]


class UserError(Exception):
    """Something that the user can mend: what was found, what is required, how to fix it."""


class LineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all other errors of the command."""

    def error(self, message: str) -> NoReturn:
        """Raises [`UserError`] where argparse would print its usage first."""
        raise UserError(f"{message} (see `{self.prog} --help`)")


@contextmanager
def blame_input(what: str, errors: tuple[type[Exception], ...] = (OSError, ValueError)) -> Iterator[None]:
    """Turns a library's errors about the user's input into [`UserError`].

    Args:
        what: What was being done, to begin the message with.
        errors: The exceptions that speak of bad input.
    """
    try:
        yield
    except errors as error:
        # Some libraries say only in the cause what was wrong.
        reason = error.__cause__ or error
        lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
        raise UserError(f"{what}: {' '.join(lines) or type(reason).__name__}") from error
