"""For tests of what older versions of transformers do differently, or do not have."""

import pytest
import transformers
from packaging.version import Version


def is_at_least(version):
    """Whether the installed transformers is of this version or a later one."""
    return Version(transformers.__version__).release >= Version(version).release


def since(version, difference):
    """Marks a test of something that transformers has from a version on."""
    return pytest.mark.skipif(not is_at_least(version), reason=f"before transformers {version}: {difference}")
