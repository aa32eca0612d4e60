"""Runs commands as if only `rgtg-hf` and one extra were installed: nothing else can be imported.

    python -m tests.cli.extra_alone EXTRA '[["COMMAND", "option", ...], ...]'

EXTRA may be empty, for `rgtg-hf` alone.
"""

import configparser
import json
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def requirements(extra):
    """The requirements in setup.cfg, which may be newer than those of the installed package."""
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    lines = setup["options"]["install_requires"] + (setup["options.extras_require"][extra] if extra else "")
    return [Requirement(line) for line in lines.split("\n") if line.strip()]


def closure(wanted):
    """The names of the distributions that these requirements install."""
    found, seen, queue = {"rgtg-hf"}, set(), list(wanted)
    while queue:
        requirement = queue.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            own = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(canonicalize_name(requirement.name))
        for needed in map(Requirement, own):
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                queue.append(needed)
    return found


class OnlyThese(PathFinder):
    """Finds modules and distributions as usual, except hidden ones."""

    hidden_modules = frozenset()
    distributions = frozenset()

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in cls.hidden_modules else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *args, **kwargs):
        for distribution in super().find_distributions(*args, **kwargs):
            if canonicalize_name(distribution.name) in cls.distributions:
                yield distribution


def hide_all_but(extra):
    """Hides the modules of all distributions that the extra does not install."""
    OnlyThese.distributions = closure(requirements(extra))
    owned, shown = set(), set()
    for distribution in metadata.distributions():
        # `metadata.packages_distributions()` of Python 3.10 leaves out those that do not list their modules.
        modules = {file.parts[0].removesuffix(".py") for file in distribution.files or () if file.suffix == ".py"}
        owned |= modules
        shown |= modules if canonicalize_name(distribution.name) in OnlyThese.distributions else set()
    OnlyThese.hidden_modules = owned - shown
    # Other finders are those of editable installs.
    sys.meta_path[:] = [
        f for f in sys.meta_path if getattr(f, "__name__", "") in ("BuiltinImporter", "FrozenImporter")
    ]
    sys.meta_path.append(OnlyThese)


if __name__ == "__main__":
    hide_all_but(sys.argv[1])
    from rgtg_hf.cli.main import main

    sys.exit(max(main(arguments) for arguments in json.loads(sys.argv[2])))
