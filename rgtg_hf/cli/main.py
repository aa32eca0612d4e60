"""The `rgtg-hf` command: runs the command that was named and turns its errors into one line.

Nothing heavy is imported here, so `rgtg-hf --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.extras import check_extra
from rgtg_hf.version import __version__

__all__ = ["COMMANDS", "main"]

# The module of each command, the extra that installs its packages, and its line in the help text.
COMMANDS = {
    "sample": ("sample_command", None, "write preference pairs and prompts to try the other commands with"),
    "rollouts": ("rollouts_command", None, "write responses of the policy itself, each with its reward"),
    "rate": ("rate_command", None, "rate responses that are there already"),
    "train": ("train.train_command", "train", "train a prefix reward model on preference pairs"),
    "train-values": ("train.values_command", "train", "train a prefix value model on rated responses"),
    "train-head": ("train.head_command", "train", "train a steering head on rated responses"),
    "generate": ("generate.generate_command", None, "generate text that is guided by a reward model"),
    "evaluate": ("evaluate.evaluate_command", "evaluate", "compare guidance with other methods on your own prompts"),
    "push": ("push_command", None, "upload a reward model, so that others can use it by its name"),
    "inspect": ("inspect_command", None, "write a page that shows the reward of every token"),
    "playground": ("playground.playground_command", "playground", "guided and unguided text in the browser"),
    "merge": ("merge_command", None, "merge linear steering heads into a policy"),
    "demo": ("demo.demo_command", "demo", "train a small reward model and steer a real language model with it"),
}

_HELP = "\n".join(
    [
        "usage: rgtg-hf COMMAND [options]",
        "",
        "Steer a language model while it generates, with a reward model trained on prefixes.",
        "",
        *(f"  {name:<12} {summary}" for name, (_, _, summary) in COMMANDS.items()),
        "",
        "rgtg-hf COMMAND --help lists the options of a command, rgtg-hf --version prints the version.",
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The name of the command and its options. Defaults to those of the process.

    Returns:
        The exit code: 0 when done, 2 for an error that the user can correct, such as a mistake in the input or a full
        disk (one line on stderr describes it), 130 when interrupted.

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
        _run(name, options)
    except UserError as error:
        print(f"rgtg-hf: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"rgtg-hf: interrupted{'; ' if interruption.args else ''}{interruption}", file=sys.stderr)
        return 130
    except Exception as error:
        message = _environment_message(error)
        if message is None:
            raise
        print(f"rgtg-hf: error: {' '.join(message.split())}", file=sys.stderr)
        return 2
    return 0


def _run(name: str, options: list[str]) -> None:
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}; choose one of: {', '.join(COMMANDS)}")
    module, extra, _ = COMMANDS[name]
    if extra is not None and not {"-h", "--help"} & set(options):
        check_extra(name, extra)
    try:
        import_module(f"rgtg_hf.cli.{module}").run(options)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("rgtg_hf"):
            raise
        # Only some inputs need the package, such as a reward model that is a LoRA adapter.
        raise UserError(
            f'{error.name} is not installed, but this needs it: pip install "rgtg-hf[{extra or "train"}]"'
        ) from error


def _environment_message(error: Exception) -> str | None:
    """The message of an error of the disk, a folder's permissions, the network or a missing package, else None.

    safetensors and torch raise exceptions of their own for disk errors. They are recognised without importing them.
    """
    # An import error without a name is not Python's: it was raised on purpose, with its own message.
    missing_package = isinstance(error, ImportError) and error.name is None
    if isinstance(error, OSError) or missing_package or type(error).__name__ == "SafetensorError":
        return str(error)
    # The hub's client has changed the package of its errors between versions. The name of their base has stayed.
    if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):
        return f"the hub cannot be reached: {error}"
    if isinstance(error, RuntimeError) and ("inline_container" in str(error) or "iostream error" in str(error)):
        return f"a file cannot be written (is the disk full?): {error}"
    return None


if __name__ == "__main__":
    sys.exit(main())
