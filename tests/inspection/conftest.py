import pytest

from tests.cli.conftest import byte_tokenizer
from tests.tiny_models import tiny_policy, tiny_reward_model

SIZE = {"vocab_size": 259}


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="session")
def policy():
    return tiny_policy(**SIZE)


@pytest.fixture(scope="session")
def reward_model():
    return tiny_reward_model(**SIZE)
