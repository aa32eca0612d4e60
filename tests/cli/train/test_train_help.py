from dataclasses import fields

import pytest

from rgtg_hf.cli.main import main
from rgtg_hf.cli.train.train_kinds import HEADS, REWARDS, VALUES

pytest.importorskip("trl")


@pytest.mark.parametrize("kind", [REWARDS, VALUES, HEADS], ids=["rewards", "values", "heads"])
def test_the_help_tells_the_defaults_that_hold(kind):
    from trl import ModelConfig, ScriptArguments

    own, _, _ = kind.classes()
    known = {one.name: one for kind in (ScriptArguments, ModelConfig, own) for one in fields(kind)}
    for one in [option for options in kind.options.values() for option in options]:
        if one.name not in ("config", "help-all"):
            default = True if one.name.startswith("no_") else one.default
            assert known[one.name.removeprefix("no_")].default == default, one.name


@pytest.mark.parametrize("kind", [REWARDS, VALUES, HEADS], ids=["rewards", "values", "heads"])
def test_the_help_lists_every_option_that_is_not_of_trl(kind):
    from trl import RewardConfig

    own = {one.name for one in fields(kind.classes()[0])} - {one.name for one in fields(RewardConfig)}
    if kind is HEADS:
        own.remove("num_layers")  # which it refuses
    assert own <= {one.name for options in kind.options.values() for one in options}


def test_all_options_are_listed_on_demand(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["train", "--help-all"])
    assert "--lora_alpha" in capsys.readouterr().out
