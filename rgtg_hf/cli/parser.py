"""The options of a command: help in groups with a line for each option, and mistakes that end in one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from rgtg_hf.cli.errors import UserError

__all__ = ["LineParser"]

_COLUMN = 36  # where the descriptions of the options begin, at the most
_METAVARS = {bool: "BOOL", int: "N", float: "X"}


class LineParser(argparse.ArgumentParser):
    """An argument parser with options in groups, and errors of one line, like all errors of the command.

    Args:
        command: The name of the command.
        summary: What it does, in a sentence.
        usage: What follows the name of the command in the first line of the help.
        examples: Command lines that the help ends with.
    """

    def __init__(self, command: str, summary: str, usage: str = "[options]", examples: Sequence[str] = ()):
        super().__init__(
            prog=f"rgtg-hf {command}",
            usage=f"%(prog)s {usage}",
            description=summary,
            epilog="\n".join(["examples:", *(f"  {line}" for line in examples)]) if examples else None,
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=_COLUMN),
            add_help=False,
        )
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Raises [`UserError`][rgtg_hf.cli.errors.UserError]. argparse would print its usage and exit."""
        raise UserError(f"{message} (see `{self.prog} --help`)")

    def group(self, title: str, text: str | None = None) -> Callable[..., None]:
        """Begins a group of options.

        Args:
            title: Its name in the help.
            text: A sentence that holds for all of it.

        Returns:
            A function with the arguments of `add_argument`. The help of an option that is added by it ends with its
            choices and its default.
        """
        add_argument = self.add_argument_group(title, text).add_argument

        def add(*names: str, **settings: Any) -> None:
            if names[0].startswith("-") and "action" not in settings:
                settings.setdefault("metavar", _METAVARS.get(settings.get("type"), "NAME"))  # type: ignore[arg-type]
                settings["help"] += _in_brackets(settings)
            settings.pop("shown", None)
            add_argument(*names, **settings)

        return add


def _in_brackets(settings: dict[str, Any]) -> str:
    """The choices of an option and its default, as its help ends. `shown` is a default that is known later."""
    default = settings.get("shown", settings.get("default"))
    words = " ".join(map(str, default)) if isinstance(default, list) else default
    parts = [", ".join(settings["choices"])] if settings.get("choices") else []
    parts += [] if words in (None, argparse.SUPPRESS) else [f"default: {words}"]
    parts += ["required"] if settings.get("required") else []
    return f" ({'; '.join(parts)})" if parts else ""
