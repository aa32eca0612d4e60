"""Fixtures of the training tests."""

import pytest
import torch
from datasets import Dataset

from rgtg_hf import NextTokenRewardModel, PrefixRewardConfig, PrefixRewardTrainer
from tests.stand_in_hub import trainer_hub  # noqa: F401
from tests.tiny_models import FULL
from tests.training.helpers import make_policy, make_reward_model, make_tokenizer, text_rows


@pytest.fixture
def tokenizer():
    return make_tokenizer()


@pytest.fixture
def reward_model():
    return make_reward_model()


@pytest.fixture
def make_trainer(tmp_path, tokenizer):
    """Builds a trainer with settings fit for a tiny run on a CPU."""

    def build(train, model=None, evaluation=None, trainer_kwargs=None, config_class=PrefixRewardConfig, **settings):
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "learning_rate": 1e-3,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
        }
        return PrefixRewardTrainer(
            model=model if model is not None else make_reward_model(),
            args=config_class(**defaults | settings),
            train_dataset=Dataset.from_list(train) if isinstance(train, list) else train,
            eval_dataset=Dataset.from_list(evaluation) if isinstance(evaluation, list) else evaluation,
            processing_class=tokenizer,
            **trainer_kwargs or {},
        )

    return build


@pytest.fixture
def rows():
    return text_rows()


@pytest.fixture
def make_head():
    """A steering head; by default with weights that rate tokens differently."""

    def build(policy=None, fresh=False, **settings):
        settings = settings if fresh else FULL | settings  # so that what it reads shows
        head = NextTokenRewardModel.from_policy(policy or make_policy(), rank=8, **settings)
        torch.manual_seed(0)
        for parameter in () if fresh else head.score.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
        return head

    return build
