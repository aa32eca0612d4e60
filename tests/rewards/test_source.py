"""Where a reward model was loaded from is known, and what was not loaded comes from nowhere."""

import gc

import pytest
from peft import LoraConfig, get_peft_model
from transformers import LlamaForSequenceClassification

from rgtg_hf.config import RewardModelSource
from rgtg_hf.rewards import source
from rgtg_hf.rewards.load import load_reward_model
from rgtg_hf.rewards.source import describe_reward_model, display_name, remember_source, source_of
from tests.tiny_models import tiny_reward_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward-model")
    tiny_reward_model().save_pretrained(folder)
    return folder


def test_a_loaded_reward_model_has_its_name_and_revision(folder):
    assert source_of(load_reward_model(str(folder), "v1.0")) == RewardModelSource(str(folder), "v1.0")
    assert source_of(load_reward_model(folder)) == RewardModelSource(str(folder), None)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_loaded_adapter_has_its_own_name_and_not_that_of_its_base(folder, tmp_path):
    base = LlamaForSequenceClassification.from_pretrained(folder)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    assert source_of(load_reward_model(str(tmp_path))) == RewardModelSource(str(tmp_path), None)


def test_the_name_that_from_pretrained_leaves_is_found(folder):
    assert source_of(LlamaForSequenceClassification.from_pretrained(folder)) == RewardModelSource(str(folder))


def test_what_was_not_loaded_has_no_source(folder):
    loaded = LlamaForSequenceClassification.from_pretrained(folder)
    for reward_model in (tiny_reward_model(), [loaded], lambda prompts, responses: [0.0], None):
        assert source_of(reward_model) is None


def test_a_source_is_forgotten_with_its_model():
    model = tiny_reward_model()
    remember_source(model, "owner/rm")
    known = len(source._sources)
    del model
    gc.collect()
    assert len(source._sources) == known - 1


def test_names_do_not_tell_where_models_lie(tmp_path):
    (tmp_path / "runs" / "model").mkdir(parents=True)
    assert display_name(str(tmp_path / "runs" / "model")) == "model"
    assert display_name("~/secret/model/") == "model"
    assert display_name("C:\\Users\\me\\model") == "model"
    assert display_name("owner/model") == "owner/model"
    assert display_name("") == ""


def test_a_reward_model_is_described_by_its_class_and_its_name_without_the_path(folder):
    def cheerful(prompts, responses):
        return [0.0] * len(prompts)

    assert describe_reward_model(tiny_reward_model()) == "LlamaForSequenceClassification"
    loaded = f"LlamaForSequenceClassification({folder.name!r})"
    assert describe_reward_model(load_reward_model(folder)) == loaded
    assert describe_reward_model([load_reward_model(folder), cheerful]) == f"[{loaded}, cheerful]"
