"""What servers and requests may say, and the sentence that refuses the rest."""

import pytest

from rgtg_hf import RewardGuidanceConfig
from rgtg_hf.config import DEFAULTS
from rgtg_hf.serving.settings import MAX_TOP_K, ServerSettings, requested_guidance, resolved_request
from tests.test_config import OF_A_STEP, OTHER_VALUES


@pytest.mark.parametrize("extra_args", [None, {}, {"other": 1}, {"rgtgish": 1}])
def test_a_request_that_says_nothing_is_not_guided(extra_args):
    assert requested_guidance(extra_args) is None


@pytest.mark.parametrize(
    "extra_args",
    [
        {"rgtg": {"beta": 1.5, "top_k": 7}, "other": 1},
        {"rgtg_beta": 1.5, "rgtg_top_k": 7},
        {"rgtg": '{"beta": 1.5, "top_k": 7}'},
        {"rgtg": {"beta": 1.5}, "rgtg_top_k": 7},
    ],
)
def test_every_way_to_ask_says_the_same(extra_args):
    assert requested_guidance(extra_args) == RewardGuidanceConfig(beta=1.5, top_k=7)


@pytest.mark.parametrize("name", OF_A_STEP)
def test_a_request_may_give_every_setting_and_gets_the_servers_for_the_rest(name):
    default = RewardGuidanceConfig(beta=2.0, top_k=20)
    requested = requested_guidance({"rgtg": {name: OTHER_VALUES[name]}})
    found = vars(resolved_request(requested, default))
    assert found == DEFAULTS | {"beta": 2.0, "top_k": 20} | {name: OTHER_VALUES[name]}


def test_a_server_bounds_the_candidates():
    assert resolved_request(RewardGuidanceConfig(), RewardGuidanceConfig(top_k=0)).top_k == MAX_TOP_K
    assert resolved_request(RewardGuidanceConfig(), RewardGuidanceConfig(top_k=10**6)).top_k == MAX_TOP_K


@pytest.mark.parametrize(
    ("extra_args", "sentence"),
    [
        ({"rgtg": {"bta": 1}}, r"unknown settings \['bta'\]. Did you mean `beta`\?"),
        ({"rgtg_bta": 1}, r"unknown settings \['bta'\]"),
        ({"rgtg": 3}, "is 3, but an object"),
        ({"rgtg": "{"}, "not valid JSON"),
        ({"rgtg": "[1]"}, "an object such as"),
        ({"rgtg": {"beta": "1"}}, "a number is required"),
        ({"rgtg": {"beta": True}}, "a number is required"),
        ({"rgtg": {"beta": float("nan")}}, "a finite number is required"),
        ({"rgtg": {"beta": 1e9}}, "must be within 1e"),
        ({"rgtg": {"top_k": 0}}, "must be from 1 to 256"),
        ({"rgtg": {"scorer": "reference"}}, "unknown settings"),
        ({"rgtg": {"top_k": 2.5}}, "an integer"),
        ({"rgtg": {"top_k": 257}}, "must be from 1 to 256"),
        ({"rgtg": {"beta": 1.0}, "rgtg_beta": 2.0}, r"\['beta'\] twice"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_in_one_sentence(extra_args, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        requested_guidance(extra_args)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("additional_config", "sentence"),
    [
        ({}, "started without a reward model"),
        (None, "started without a reward model"),
        ({"rgtg": "my-model"}, "started without a reward model"),
        ({"rgtg": {"head": "a"}}, "started without a reward model"),
        ({"rgtg": {"reward_model": ""}}, "`reward_model` is ''"),
        ({"rgtg": {"reward_model": "a", "rank": 1}}, r"unknown settings \['rank'\]"),
        ({"rgtg": {"reward_model": "a", "dtype": "int8"}}, "must be one of"),
        ({"rgtg": {"reward_model": "a", "cache_gib": 0}}, "above 0"),
        ({"rgtg": {"reward_model": "a", "device": 1}}, "text is required"),
        ({"rgtg": {"reward_model": "a", "head_beta": "3"}}, "a number is required"),
    ],
)
def test_wrong_settings_of_a_server_are_one_sentence(additional_config, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        ServerSettings.from_additional_config(additional_config, "reward_model")


def test_a_policy_with_a_head_needs_no_reward_model():
    settings = ServerSettings.from_additional_config({"rgtg": {"head": "a", "head_beta": 3.0}}, "head")
    assert (settings.head, settings.head_beta) == ("a", 3.0)
    with pytest.raises(ValueError, match="without a head to steer by"):
        ServerSettings.from_additional_config({"rgtg": {"reward_model": "a"}}, "head")
