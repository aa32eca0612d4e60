"""A model that changes is noticed, and one in training mode is read in evaluation mode."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from rgtg_hf.rewards.model_state import ModelState, evaluating, input_device
from tests.tiny_models import tiny_reward_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def lora(model):
    return get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))


def step_of_training(model):
    model(torch.tensor([[5, 6]])).logits.sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


CHANGES = {
    "training": step_of_training,
    "load_state_dict": lambda model: model.load_state_dict(tiny_reward_model(seed=7).state_dict()),
    "a resized embedding": lambda model: model.resize_token_embeddings(64),
    "new adapters": lora,
    "another precision": lambda model: model.to(torch.bfloat16),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_weights_or_parts_is_noticed_once(change):
    model = tiny_reward_model()
    state = ModelState(model.model)
    assert not state.has_changed(thorough=True)
    CHANGES[change](model)
    assert state.has_changed(thorough=True)
    assert not state.has_changed(thorough=True)


def test_weights_and_adapters_that_were_there_are_seen_at_a_glance():
    model = lora(tiny_reward_model())
    state = ModelState(model)
    with model.disable_adapter():
        assert state.has_changed()
        assert not state.has_changed()
    assert state.has_changed()
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"]))
    state.has_changed(thorough=True)
    model.set_adapter("other")
    assert state.has_changed()
    step_of_training(model)
    assert state.has_changed()


def test_autocast_is_another_precision():
    state = ModelState(tiny_reward_model())
    with torch.autocast("cpu", torch.bfloat16):
        assert state.has_changed()
    assert state.has_changed()
    assert not state.has_changed()


def test_models_made_in_inference_mode_can_be_asked():
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    assert not ModelState(model).has_changed(thorough=True)


def test_each_module_is_left_in_the_mode_in_which_it_was():
    model = tiny_reward_model().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]

    def read():
        with evaluating([model, print, tiny_reward_model()]):
            assert not any(module.training for module in model.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read()
    assert [module.training for module in model.modules()] == modes


def test_an_offloaded_model_takes_its_inputs_anywhere():
    assert input_device(tiny_reward_model()).type == "cpu"
    assert input_device(nn.Linear(2, 2, device="meta")).type == "cpu"
