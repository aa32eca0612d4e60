"""A server refuses a reward model that cannot serve its policy, before any request, in words that help."""

import re

import pytest
import torch

from rgtg_hf import RewardGuidanceConfig
from rgtg_hf.rewards.load import load_reward_model
from rgtg_hf.serving.rows import cache_bytes_per_token
from rgtg_hf.serving.served_reward_model import load_row_scorer, server_default
from rgtg_hf.serving.settings import ServerSettings


def load(models, name, *, requests=4, length=64, **settings):
    vocabulary = load_reward_model(models / "siblings").config.vocab_size
    one = ServerSettings(reward_model=str(models / name), **settings)
    return load_row_scorer(one, torch.device("cpu"), vocabulary, requests, length)


@pytest.mark.parametrize("name", ["siblings", "next-token"])
def test_both_kinds_of_reward_models_are_served(models, name):
    scorer = load(models, name)
    assert scorer.vocabulary_size == load_reward_model(models / "siblings").config.vocab_size


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("head", "is a steering head, .* name it as `head`"),
        ("other-vocabulary", "reward model's embedding has 300"),
    ],
)
def test_a_reward_model_that_cannot_serve_the_policy_is_refused(models, name, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(models, name)


def test_more_memory_than_was_set_aside_is_refused_with_the_number_that_fits(models):
    with pytest.raises(ValueError, match=r"max_num_seqs to \d+\.") as error:
        load(models, "siblings", requests=1000, cache_gib=0.01)
    fitting = int(re.search(r"max_num_seqs to (\d+)", str(error.value))[1])
    load(models, "siblings", requests=fitting, cache_gib=0.01)
    with pytest.raises(ValueError, match="max_num_seqs"):
        load(models, "siblings", requests=fitting + 1, cache_gib=0.01)


def test_one_request_that_does_not_fit_is_refused_by_its_length(models):
    per_token = cache_bytes_per_token(load_reward_model(models / "siblings"))
    with pytest.raises(ValueError, match="lower max_model_len") as error:
        load(models, "siblings", length=10**6, cache_gib=0.01)
    assert f"{per_token} bytes per token" in str(error.value)
    assert "max_num_seqs" not in str(error.value)


def test_the_settings_beside_the_reward_model_are_those_of_a_request_that_says_nothing(models, tmp_path):
    load_reward_model(models / "siblings").save_pretrained(tmp_path)
    assert server_default(ServerSettings(reward_model=str(tmp_path))).beta == 1.0
    RewardGuidanceConfig(beta=8.0).save_pretrained(tmp_path)
    assert server_default(ServerSettings(reward_model=str(tmp_path))).beta == 8.0
