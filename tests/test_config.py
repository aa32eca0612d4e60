"""Settings: each is checked, saved, read back, and resolved in the same order everywhere."""

import json
import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import GenerationConfig

from rgtg_hf import RewardGuidanceConfig, config
from rgtg_hf.config import CHOICES, DEFAULTS, OF_SAMPLING, SCORER_NAMES, RewardModelSource, resolve_guidance
from rgtg_hf.scoring.choose import SCORERS

# A value of each setting that is not its default, for tables of all settings.
OTHER_VALUES = {
    "beta": 3.0,
    "top_k": 4,
    "top_p": 0.7,
    "min_p": 0.2,
    "min_entropy": 1.1,
    "max_increment": 0.5,
    "max_step_kl": 0.05,
    "value_beta": 2.0,
    "search": "best",
    "num_rows": 2,
    "block_size": 3,
    "max_rows": 4,
    "search_return": "draw",
    "soften": 0.3,
    "scorer": "reference",
}
# Settings that say how one step is guided.
OF_A_STEP = ("beta", "top_k", "top_p", "min_p", "min_entropy", "max_increment", "max_step_kl")


def test_the_table_of_values_has_every_setting():
    assert set(OTHER_VALUES) == set(DEFAULTS) == {field.name for field in fields(RewardGuidanceConfig)}
    assert set(SCORER_NAMES) == {"auto", *SCORERS}


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"beta": math.nan}, ValueError),
        ({"beta": math.inf}, ValueError),
        ({"beta": "1"}, TypeError),
        ({"top_k": -3}, ValueError),
        ({"top_k": 2.5}, TypeError),
        ({"top_p": 0.0}, ValueError),
        ({"min_p": 1.5}, ValueError),
        ({"min_entropy": -1.0}, ValueError),
        ({"max_increment": 0.0}, ValueError),
        ({"max_step_kl": math.nan}, ValueError),
        ({"value_beta": "b"}, ValueError),
        ({"value_beta": math.inf}, ValueError),
        ({"value_beta": [1.0]}, TypeError),
        ({"scorer": "fastest"}, ValueError),
        ({"scorer": 3}, TypeError),
        ({"search": "beam"}, ValueError),
        ({"num_rows": 0}, ValueError),
        ({"block_size": 2.0}, TypeError),
        ({"max_rows": -1}, ValueError),
        ({"search_return": "worst"}, ValueError),
        ({"soften": 1.5}, ValueError),
    ],
)
def test_settings_out_of_range_are_refused(setting, error):
    with pytest.raises(error, match=f"`{next(iter(setting))}` is"):
        RewardGuidanceConfig(**setting)


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_argument_wins_over_the_object_over_the_file_over_the_default(name, tmp_path):
    def value_of(number):  # of the setting, another one for each number
        choices = CHOICES.get(name)
        counted = isinstance(DEFAULTS[name], int)
        return choices[number % len(choices)] if choices else number + 1 if counted else (number + 1) / 4

    RewardGuidanceConfig(**{name: value_of(0)}).save_pretrained(tmp_path)
    source, given = RewardModelSource(str(tmp_path)), RewardGuidanceConfig(**{name: value_of(1)})

    def resolved(settings, *rest):
        found = resolve_guidance(settings, *rest)
        return getattr(found.config, name), found.sources[name].split(" of ")[0]

    assert resolved({name: value_of(2)}, given, source) == (value_of(2), "argument")
    assert resolved({name: None}, given, source) == (value_of(1), "guidance_config")
    generation = GenerationConfig(max_new_tokens=3, **{name: value_of(3)})
    assert resolved({}, given, source, generation) == (value_of(1), "guidance_config")
    if name not in OF_SAMPLING:  # which are settings of sampling there
        assert resolved({}, RewardGuidanceConfig(), source, generation) == (value_of(3), "GenerationConfig")
    else:
        assert resolved({}, None, source, generation) == (value_of(0), "guidance_config.json")
    assert resolved({}, RewardGuidanceConfig(), source) == (value_of(0), "guidance_config.json")
    assert resolved({}, None, RewardModelSource(str(tmp_path / "nowhere"))) == (DEFAULTS[name], "default")
    assert resolved({}) == (DEFAULTS[name], "default")


def test_an_argument_that_equals_the_default_still_wins():
    found = resolve_guidance({"beta": 1.0, "top_k": 10}, RewardGuidanceConfig(beta=3.0, top_k=4))
    assert (found.config.beta, found.config.top_k) == (1.0, 10)


def test_resolved_settings_stay_but_for_arguments(tmp_path):
    RewardGuidanceConfig(top_k=7).save_pretrained(tmp_path)
    found = resolve_guidance({"min_p": 0.1}, RewardGuidanceConfig(beta=3.0))
    again = resolve_guidance({"beta": 2.0}, found, RewardModelSource(str(tmp_path)), GenerationConfig(min_entropy=1.0))
    assert vars(again.config) == vars(found.config) | {"beta": 2.0}
    assert again.sources == found.sources | {"beta": "argument"}
    assert resolve_guidance({}, found) == found


def test_where_beta_comes_from_is_said_once_and_loudly_if_it_stands_in_a_file(tmp_path, caplog):
    config._log_beta.cache_clear()
    caplog.set_level("INFO", "rgtg_hf.config")
    RewardGuidanceConfig(beta=8.0).save_pretrained(tmp_path)
    source = RewardModelSource(str(tmp_path))
    for _ in range(2):
        resolve_guidance({"beta": 5.0}, None, source)
        resolve_guidance({})
        resolve_guidance({}, RewardGuidanceConfig(beta=3.0), source)
        resolve_guidance({}, None, None, GenerationConfig(beta=4.0))
        resolve_guidance({}, None, source)
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["INFO", "INFO", "WARNING", "WARNING"]
    words = ["beta=1.0, from: default", "beta=3.0, from: guidance_config.", "beta=4.0, from: GenerationConfig",
             f"beta=8.0, from: guidance_config.json of {tmp_path}"]  # fmt: skip
    assert all(part in message for part, (_, message) in zip(words, said, strict=True))


def test_an_unknown_setting_is_refused_with_the_known_ones():
    with pytest.raises(TypeError, match=r"`topk`. Did you mean `top_k` or `top_p`\? The settings "):
        resolve_guidance({"topk": 5})


@pytest.mark.parametrize("given", [{}, OTHER_VALUES, {"beta": 1.5, "top_k": 0, "max_increment": 2.0}])
def test_a_config_is_read_back_as_written_with_unset_settings_unset(given, tmp_path):
    RewardGuidanceConfig(**given).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "guidance_config.json").read_text()) == given
    assert RewardGuidanceConfig.from_pretrained(tmp_path) == RewardGuidanceConfig(**given)


def test_infinity_which_json_lacks_is_left_out(tmp_path):
    RewardGuidanceConfig(max_step_kl=math.inf).save_pretrained(tmp_path)
    assert (tmp_path / "guidance_config.json").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"beta": 1.0, "strength": 2}', r"unknown settings \['strength'\]"),
        ('{"beta": -', "not valid JSON"),
        ("[]", "an object of settings is required"),
        ('{"top_p": 3}', r"guidance_config\.json: `top_p` is 3"),
    ],
)
def test_a_damaged_file_is_refused_also_where_it_is_only_looked_up(text, sentence, tmp_path):
    (tmp_path / "guidance_config.json").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        RewardGuidanceConfig.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        resolve_guidance({}, source=RewardModelSource(str(tmp_path)))


def test_the_hub_is_asked_once_per_reward_model(monkeypatch, tmp_path):
    asked = []

    def download(name, file, revision=None):
        asked.append((name, revision))
        path = tmp_path / file
        path.write_text('{"beta": 2.5}')
        return str(path)

    monkeypatch.setattr(config, "hf_hub_download", download)
    config._hub_guidance.cache_clear()
    for _ in range(3):
        assert resolve_guidance({}, source=RewardModelSource("owner/name", "v1")).config.beta == 2.5
    resolve_guidance({}, source=RewardModelSource("owner/name"))
    assert asked == [("owner/name", "v1"), ("owner/name", None)]
    config._hub_guidance.cache_clear()


def test_a_hub_that_cannot_be_reached_means_defaults_and_a_warning(monkeypatch, caplog):
    def download(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(config, "hf_hub_download", download)
    config._hub_guidance.cache_clear()
    assert resolve_guidance({}, source=RewardModelSource("owner/other")).config.beta == 1.0
    assert "could not be looked up (ConnectionError)" in caplog.text
    config._hub_guidance.cache_clear()
    assert issubclass(LocalEntryNotFoundError, FileNotFoundError)
    assert issubclass(HfHubHTTPError, OSError)


def test_numbers_of_numpy_become_plain_ones(tmp_path):
    given = RewardGuidanceConfig(beta=np.float32(1.5), top_k=np.int64(7))
    assert (type(given.beta), type(given.top_k)) == (float, int)
    given.save_pretrained(tmp_path)
    assert RewardGuidanceConfig.from_pretrained(tmp_path) == RewardGuidanceConfig(beta=1.5, top_k=7)


def test_stacked_settings_are_numbers_where_rows_agree_and_columns_where_they_differ():
    rows = [resolve_guidance({"beta": beta, "top_k": top_k}).config for beta, top_k in ((1.0, 5), (2.0, 0))]
    stacked = RewardGuidanceConfig.stacked(rows)
    assert torch.equal(stacked.beta, torch.tensor([[1.0], [2.0]]))
    assert stacked.top_k[0] == 5
    assert stacked.top_k[1] > 10**6  # the whole vocabulary
    assert stacked.top_p == 1.0
    assert rows[0].beta == 1.0
