from argparse import Namespace

import pytest

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.option_checks import check_at_least_one, check_guidance, check_model_name, check_same_tokenizer
from tests.cli.conftest import byte_tokenizer


def test_counts_below_one_are_refused_by_name():
    check_at_least_one(Namespace(a=1, b=7), "a", "b")
    with pytest.raises(UserError, match="--b is 0"):
        check_at_least_one(Namespace(a=1, b=0), "a", "b")


@pytest.mark.parametrize(("beta", "top_k", "says"), [(float("nan"), 1, "--beta is nan"), (1.0, 0, "--top_k is 0")])
def test_unusable_guidance_is_refused(beta, top_k, says):
    with pytest.raises(UserError, match=says):
        check_guidance(beta, top_k)


@pytest.mark.parametrize("name", ["owner/name", "name", "owner/na.me-2"])
def test_hub_names_pass(name):
    check_model_name("--model", name)


@pytest.mark.parametrize("name", ["./gone", "/gone", "~/gone", "a/b/c", "a/"])
def test_paths_to_nothing_are_refused(name):
    with pytest.raises(UserError, match="does not exist"):
        check_model_name("--model", name)


def test_an_empty_name_is_not_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "config.json").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--model is empty"):
        check_model_name("--model", "")


def test_a_path_must_hold_a_model(tmp_path):
    with pytest.raises(UserError, match=r"has no config.json"):
        check_model_name("--model", str(tmp_path))
    (tmp_path / "adapter_config.json").touch()
    check_model_name("--model", str(tmp_path))
    with pytest.raises(UserError, match="is a file"):
        check_model_name("--model", str(tmp_path / "adapter_config.json"))


def test_vocabularies_must_agree():
    check_same_tokenizer(byte_tokenizer(), byte_tokenizer())
    with pytest.raises(UserError, match='"xy" is absent and 259'):
        check_same_tokenizer(byte_tokenizer(), byte_tokenizer(extra=["xy"]))
