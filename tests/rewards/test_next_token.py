"""Next-token reward models: what is saved, which policy they belong to, and one call for all tokens."""

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForSequenceClassification, T5Config, T5ForConditionalGeneration

from rgtg_hf import NextTokenRewardModel, prefix_rewards
from rgtg_hf.rewards.next_token import NextTokenRewardConfig
from tests.tiny_models import (
    FAMILIES,
    VOCAB_SIZE,
    left_padded,
    tiny_next_token_model,
    tiny_policy,
    tiny_reward_model,
    tiny_steering_head,
)

IDS = torch.tensor([[5, 6, 7, 8]])


def make(kind):
    return tiny_next_token_model() if kind == "own" else tiny_steering_head(tiny_policy())


@pytest.mark.parametrize("family", FAMILIES)
def test_one_call_gives_the_reward_of_every_continuation(family):
    model = tiny_next_token_model(family)
    ids, _ = left_padded([[5, 6, 7]])
    rewards = model.next_token_rewards(ids)[0]
    continued = torch.cat([ids.expand(VOCAB_SIZE, -1), torch.arange(VOCAB_SIZE)[:, None]], dim=1)
    after = torch.cat([prefix_rewards(model, row[None])[:, -2:] for row in continued])
    assert_close(rewards, after[:, 1] - after[:, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["own", "head"])
def test_left_padding_does_not_change_rewards(kind):
    model = make(kind)
    ids, mask = left_padded([[5, 6, 7], [8, 9, 10, 11, 12, 13]])
    alone = model.next_token_rewards(torch.tensor([[5, 6, 7]]))
    assert_close(model.next_token_rewards(ids, mask)[:1], alone, atol=1e-4, rtol=1e-4)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    padded = prefix_rewards(model, ids, mask, position_ids=positions)[0, 3:]
    assert_close(padded, prefix_rewards(model, torch.tensor([[5, 6, 7]]))[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("auto_class", [NextTokenRewardModel, AutoModel, AutoModelForSequenceClassification])
@pytest.mark.parametrize("kind", ["own", "head"])
def test_a_saved_model_gives_the_same_rewards(tmp_path, kind, auto_class):
    model = make(kind)
    model.save_pretrained(tmp_path)
    loaded = auto_class.from_pretrained(tmp_path)
    if kind == "head":
        loaded.attach(tiny_policy())
    assert_close(prefix_rewards(loaded, IDS), prefix_rewards(model, IDS))


def test_a_steering_head_saves_the_head_alone_and_names_its_policy(tmp_path):
    policy = tiny_policy()
    policy.config.name_or_path = str(tmp_path / "my-policy")
    head = tiny_steering_head(policy)
    head.save_pretrained(tmp_path / "head")
    assert {name.split(".")[0] for name in head.state_dict()} == {"score"}
    config = (tmp_path / "head" / "config.json").read_text()
    assert json.loads(config)["policy"]["name"] == "my-policy"
    assert str(tmp_path) not in config


def test_where_a_backbone_was_loaded_from_is_not_written(tmp_path):
    tiny_reward_model().save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    NextTokenRewardModel.from_backbone(base, rank=4).save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"seed": 9}, "fingerprint"),
        ({"hidden_size": 16}, "hidden size"),
        ({"vocab_size": 41}, "vocabulary size"),
    ],
)
def test_another_policy_is_refused(other, words):
    head = tiny_steering_head(tiny_policy())
    with pytest.raises(ValueError, match=words):
        head.attach(tiny_policy(**other))


def test_a_head_without_its_policy_says_so():
    head = NextTokenRewardModel(tiny_steering_head(tiny_policy()).config)
    with pytest.raises(ValueError, match="attach"):
        head(IDS)


def test_a_model_with_its_own_backbone_needs_no_policy():
    with pytest.raises(ValueError, match="backbone of its own"):
        tiny_next_token_model().attach(tiny_policy())


def test_a_reward_model_is_no_policy():
    with pytest.raises(TypeError, match="AutoModelForCausalLM"):
        NextTokenRewardModel.from_policy(tiny_reward_model())


@pytest.mark.parametrize("make", [NextTokenRewardModel.from_policy, NextTokenRewardModel.from_backbone])
def test_an_encoder_decoder_gets_no_head(make):
    model = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="an encoder-decoder, but a head reads a decoder-only model"):
        make(model)


@pytest.mark.parametrize("setting", [{"rank": 0}, {"dropout": 1.0}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        NextTokenRewardConfig(**setting)


@pytest.mark.parametrize("nonlinear", [True, False])
def test_a_fresh_head_rates_every_token_zero(nonlinear):
    head = NextTokenRewardModel.from_policy(tiny_policy(), nonlinear=nonlinear)
    assert not head.next_token_rewards(IDS).any()
