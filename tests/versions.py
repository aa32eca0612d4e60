"""For tests of what older versions of other packages do differently, or do not have."""

from importlib.metadata import version

import pytest
from packaging.version import Version


def is_at_least(least, package="transformers"):
    """Whether this version of a package, or a later one, is installed."""
    return Version(version(package)).release >= Version(least).release


def since(least, difference, package="transformers"):
    """Marks a test of something that a package has from a version on."""
    return pytest.mark.skipif(not is_at_least(least, package), reason=f"before {package} {least}: {difference}")
