"""The command to try next, which every command ends with on a terminal."""

from __future__ import annotations

import shlex
import sys

__all__ = ["suggest"]


def suggest(*words: str) -> None:
    """Prints a command on the terminal. Pipes and logs get nothing.

    Args:
        words: The words of the command, unquoted.

    Example:
        ```python
        from rgtg_hf.cli.next_command import suggest

        suggest("rgtg-hf", "generate", "--model", "owner/policy", "--reward_model", "my_rm", "Tell me a story.")
        ```
    """
    if sys.stderr.isatty():
        print(f"\nNext: {shlex.join(words)}", file=sys.stderr)
