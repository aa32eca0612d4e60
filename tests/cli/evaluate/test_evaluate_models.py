from argparse import Namespace

import pytest

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.evaluate.evaluate_models import load_contestants
from rgtg_hf.evaluation.methods import METHODS


@pytest.fixture
def options(policy_folder, reward_folder, head_folder):
    models = {"model": policy_folder, "reward_model": reward_folder, "head": head_folder}
    settings = {"top_k": 5, "max_new_tokens": 4, "block_size": 2, "ns": [2, 3], "value_beta": 0.0}
    loading = {"dtype": "auto", "device": "cpu", "trust_remote_code": False}
    return Namespace(**models, **settings, **loading, full_reward_model=None, instruction=None)


def test_only_the_models_that_methods_need_are_loaded(options):
    options.methods = ["policy", "pargs"]
    contestants = load_contestants(options)
    assert contestants.num_rows == 3
    assert contestants.reward_model is not None
    assert contestants.head is None


def test_a_head_is_attached_to_the_policy(options):
    options.methods = ["policy", "head"]
    contestants = load_contestants(options)
    assert contestants.head.backbone is contestants.policy.model


@pytest.mark.parametrize("kind", ["fine_tuned", "proxy_tuned", "proxy_base", "autoregressive_rm"])
def test_a_language_model_with_another_vocabulary_is_refused(options, foreign_reward_folder, policy_folder, kind):
    (method,) = [name for name, one in METHODS.items() if kind in one.needs]
    options.methods = [method]
    for name in METHODS[method].needs:
        setattr(options, name, policy_folder)
    assert load_contestants(options).policy is not None
    setattr(options, kind, foreign_reward_folder)
    with pytest.raises(UserError, match="policy and language model have different vocabularies"):
        load_contestants(options)


def test_a_reward_model_with_another_vocabulary_is_refused(options, foreign_reward_folder):
    options.methods, options.reward_model = ["pargs"], foreign_reward_folder
    with pytest.raises(UserError, match="different vocabularies"):
        load_contestants(options)
