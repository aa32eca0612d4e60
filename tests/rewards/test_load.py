"""Adapters that training did not make; checkpoints that are damaged are in tests/faults/test_files.py."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close

from rgtg_hf import NextTokenRewardModel, prefix_rewards
from rgtg_hf.rewards.load import load_reward_model, load_tokenizer
from tests.tiny_models import tiny_next_token_model, tiny_policy, tiny_reward_model

# PEFT asks transformers a question by a name that transformers is about to retire.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS = torch.tensor([[5, 6, 7, 8]])


def save_adapter(folder, base, layers=2, **settings):
    model = tiny_reward_model(num_hidden_layers=layers)
    model.name_or_path = str(base)
    adapter = get_peft_model(model, LoraConfig(r=2, **settings))
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapter.save_pretrained(folder)
    return adapter.eval()


@pytest.mark.parametrize("target", ["q_proj", "score"])
def test_an_adapter_without_a_head_has_that_of_its_base(target, tmp_path):
    tiny_reward_model().save_pretrained(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", tmp_path / "base", target_modules=[target])
    loaded = load_reward_model(str(tmp_path / "adapter"))
    assert_close(prefix_rewards(loaded, IDS), prefix_rewards(adapter, IDS))


@pytest.mark.parametrize("target", ["q_proj", "score"])
def test_an_adapter_without_a_head_on_a_language_model_is_refused(target, tmp_path):
    tiny_policy().save_pretrained(tmp_path / "base")
    save_adapter(tmp_path / "adapter", tmp_path / "base", target_modules=[target])
    with pytest.raises(ValueError, match="lacks the weights of its score head"):
        load_reward_model(str(tmp_path / "adapter"))


def test_an_adapter_for_fewer_layers_is_refused_where_nothing_says_how_many(tmp_path):
    tiny_policy().save_pretrained(tmp_path / "base")
    save_adapter(tmp_path / "adapter", tmp_path / "base", 1, task_type="SEQ_CLS", target_modules=["q_proj"])
    with pytest.raises(ValueError, match="missing adapter keys"):
        load_reward_model(str(tmp_path / "adapter"))


def test_next_token_reward_models_are_found_by_name(tmp_path):
    model = tiny_next_token_model()
    model.save_pretrained(tmp_path)
    loaded = load_reward_model(str(tmp_path))
    assert isinstance(loaded, NextTokenRewardModel)
    assert_close(prefix_rewards(loaded, IDS), prefix_rewards(model, IDS))


def test_a_folder_without_a_tokenizer_is_told_so(tmp_path):
    tiny_reward_model().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"holds no tokenizer: save the one that it reads by tokenizer.save_pretrained"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="Expecting property name"):
        load_tokenizer(str(tmp_path))
