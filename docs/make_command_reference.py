"""Writes docs/reference/command-line.md: what `--help` of every command says.

    python docs/make_command_reference.py

A test compares the page with the commands, so it has to be written again when an option changes.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from unittest.mock import patch

from rgtg_hf.cli.main import COMMANDS, main

PAGE = Path(__file__).parent / "reference" / "command-line.md"
WIDTH = 100
HEAD = """\
# Command line

What `--help` says. A mistake is reported in one line, with exit code 2, before anything long begins. An interruption
has exit code 130, and commands that write files go on with what is finished when they are started again.
"""


def help_of(command: str) -> str:
    """The help of a command, at the width of the page."""
    printed, width = io.StringIO(), patch.dict(os.environ, COLUMNS=str(WIDTH))
    with width, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return printed.getvalue().rstrip()


def page() -> str:
    """The page."""
    sections = [f"\n## {command}\n\n```text\n{help_of(command)}\n```\n" for command in COMMANDS]
    return HEAD + "".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
