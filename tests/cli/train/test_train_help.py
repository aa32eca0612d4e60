from dataclasses import fields

import pytest

from rgtg_hf.cli.main import main
from rgtg_hf.cli.train.train_help import OPTIONS

pytest.importorskip("trl")


def test_the_help_tells_the_defaults_that_hold():
    from trl import ModelConfig, ScriptArguments

    from rgtg_hf.training.prefix_reward_config import PrefixRewardConfig

    known = {one.name: one for kind in (ScriptArguments, ModelConfig, PrefixRewardConfig) for one in fields(kind)}
    for one in [option for options in OPTIONS.values() for option in options]:
        if one.name not in ("config", "help-all"):
            default = True if one.name.startswith("no_") else one.default
            assert known[one.name.removeprefix("no_")].default == default, one.name


def test_the_help_lists_every_option_of_prefixes():
    from trl import RewardConfig

    from rgtg_hf.training.prefix_reward_config import PrefixRewardConfig

    own = {one.name for one in fields(PrefixRewardConfig)} - {one.name for one in fields(RewardConfig)}
    assert own <= {one.name for options in OPTIONS.values() for one in options}


def test_all_options_are_listed_on_demand(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["train", "--help-all"])
    assert "--lora_alpha" in capsys.readouterr().out
