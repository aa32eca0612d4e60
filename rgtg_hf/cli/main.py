"""The `rgtg-hf` command: finds the command that is asked for and turns its errors into one line.

Nothing heavy is imported here, so that `rgtg-hf --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from rgtg_hf.cli.errors import UserError
from rgtg_hf.version import __version__

__all__ = ["main"]

_COMMANDS = {
    "train": "train a prefix reward model on preference pairs",
    "generate": "generate text, steered by a reward model",
    "evaluate": "compare steering with what else could be done, on your own prompts",
    "push": "upload a reward model, ready to steer by its name",
    "inspect": "write a page that shows what the reward did at every token",
    "playground": "steer in the browser, with and without reward side by side",
    "merge": "merge linear steering heads into a policy",
    "demo": "train a small reward model and steer a real language model with it",
}

_HELP = "\n".join(
    [
        "usage: rgtg-hf COMMAND [options]",
        "",
        "Steer a language model at decoding time with a reward model trained on prefixes.",
        "",
        *(f"  {name:<10} {summary}" for name, summary in _COMMANDS.items()),
        "",
        "rgtg-hf COMMAND --help tells the options of a command, rgtg-hf --version the version.",
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The command's name and its options. Defaults to those of the process.

    Returns:
        The exit code: 0 when done, 2 for what the user can mend, such as a mistake in the
        input or a full disk (one line on stderr says what), 130 when interrupted.

    Example:
        ```python
        from rgtg_hf.cli.main import main

        assert main(["--version"]) == 0
        ```
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP)
        return 0
    if arguments[0] == "--version":
        print(f"rgtg-hf {__version__}")
        return 0
    name, *options = arguments
    try:
        if name not in _COMMANDS:
            raise UserError(f"there is no command {name!r}; choose one of: {', '.join(_COMMANDS)}")
        import_module(f"rgtg_hf.cli.{name}").run(options)
    except UserError as error:
        print(f"rgtg-hf: error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("rgtg_hf"):
            raise
        extra = name if name in ("train", "playground", "evaluate") else "demo"
        print(
            f"rgtg-hf: error: {error.name} is not installed, which `rgtg-hf {name}` needs: "
            f'pip install "rgtg-hf[{extra}]"',
            file=sys.stderr,
        )
        return 2
    except ImportError as error:
        if type(error.__cause__) is not ModuleNotFoundError:
            raise
        print(f"rgtg-hf: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"rgtg-hf: interrupted{'; ' if interruption.args else ''}{interruption}", file=sys.stderr)
        return 130
    except Exception as error:
        words = _words_of_the_machine(error)
        if words is None:
            raise
        print(f"rgtg-hf: error: {' '.join(words.split())}", file=sys.stderr)
        return 2
    return 0


def _words_of_the_machine(error: Exception) -> str | None:
    """What to say where a disk, a folder's permissions or a connection failed; None where the program did.

    safetensors and torch tell of disks by exceptions of their own, which are not imported here: see above.
    """
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        return str(error)
    if isinstance(error, RuntimeError) and ("inline_container" in str(error) or "iostream error" in str(error)):
        return f"a file cannot be written (is the disk full?): {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
