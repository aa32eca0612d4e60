"""What all tests share: no network, no telemetry, and tiny models."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch

from tests import tiny_models

torch.set_num_threads(1)  # tiny models gain nothing from more, and lose much where cores are shared


@pytest.fixture(scope="session")
def policy():
    return tiny_models.tiny_policy()


@pytest.fixture(scope="session")
def guided_policy():
    """The same policy with the mixin."""
    return tiny_models.tiny_policy(model_class=tiny_models.GuidedLlama)


@pytest.fixture(scope="session")
def reward_model():
    return tiny_models.tiny_reward_model()
