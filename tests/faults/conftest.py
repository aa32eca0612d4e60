"""The tiny checkpoints of the commands' tests, and processes that can be killed."""

import pytest

from tests.cli.conftest import policy_folder, quiet_libraries, reward_folder  # noqa: F401
from tests.faults import runs


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts a command in a process of its own, see [`runs.start`]."""
    return runs.starter(tmp_path_factory.mktemp("cache"))
