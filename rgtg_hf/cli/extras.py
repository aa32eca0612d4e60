"""The optional packages of a command, checked before it starts."""

from __future__ import annotations

from importlib import metadata

from rgtg_hf.cli.errors import UserError

__all__ = ["check_extra"]


def check_extra(command: str, extra: str) -> None:
    """Checks that every package of an extra is installed, without importing any of them.

    The packages are those that the installed `rgtg-hf` declares, so there is no second list of them.

    Args:
        command: The command that needs the extra, for the message.
        extra: The name of the extra.

    Raises:
        UserError: If a package is missing.
    """
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(text) for text in metadata.requires("rgtg-hf") or []]
    except metadata.PackageNotFoundError:  # the code runs from a folder that is not installed
        return
    for requirement in requirements:
        if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            raise UserError(
                f"{requirement.name} is not installed, but `rgtg-hf {command}` needs it: "
                f'pip install "rgtg-hf[{extra}]"'
            ) from None
