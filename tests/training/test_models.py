import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from rgtg_hf.training.models import load_for_training, match_trained_dtype
from tests.training.helpers import make_policy, make_reward_model

ROPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
POLICIES = {
    "llama": lambda: make_policy(num_hidden_layers=4),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**ROPE)),
    "smollm3": lambda: SmolLM3ForCausalLM(SmolLM3Config(**ROPE)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=4, n_head=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    ),
}


@pytest.mark.parametrize("family", POLICIES)
def test_first_layers_are_those_of_the_policy(family, tmp_path, caplog, capfd):
    policy = POLICIES[family]().eval()
    policy.save_pretrained(tmp_path / "policy")
    capfd.readouterr()
    model = load_for_training(str(tmp_path / "policy"), num_layers=2)

    assert not caplog.records
    assert "MISSING" not in "".join(capfd.readouterr())
    assert model.config.num_hidden_layers == 2
    ids = torch.tensor([[5, 6, 7]])
    # hidden_states[2] is what the second layer gives; the last one of a model has gone through its final norm too.
    final_norm = getattr(policy.base_model, "norm", None) or policy.base_model.ln_f
    hidden = final_norm(policy(ids, output_hidden_states=True).hidden_states[2])
    assert_close(model.base_model(ids).last_hidden_state, hidden)

    model.save_pretrained(tmp_path / "reward")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")
    assert_close(again(ids).logits, model(ids).logits)


def test_the_fresh_head_depends_on_its_seed_and_nothing_else(tmp_path):
    make_policy().save_pretrained(tmp_path)
    torch.manual_seed(0)
    first = load_for_training(str(tmp_path), seed=1).score.weight
    state = torch.get_rng_state()
    second = load_for_training(str(tmp_path), seed=1).score.weight
    assert_close(first, second)
    assert_close(torch.get_rng_state(), state)
    assert not torch.equal(first, load_for_training(str(tmp_path), seed=2).score.weight)


def test_a_reward_model_keeps_its_head(tmp_path):
    model = make_reward_model()
    model.save_pretrained(tmp_path)
    assert_close(load_for_training(str(tmp_path)).score.weight, model.score.weight)


@pytest.mark.parametrize("num_layers", [0, 3])
def test_more_layers_than_there_are_is_an_error(num_layers, tmp_path):
    make_policy().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 2 layers: give 1 to 2"):
        load_for_training(str(tmp_path), num_layers=num_layers)


def test_an_incomplete_checkpoint_is_an_error(tmp_path):
    model = make_reward_model()
    weights = {name: value for name, value in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ValueError, match="lacks 3 weights"):
        load_for_training(str(tmp_path))


# PEFT asks transformers a question by a name that transformers is about to retire.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_get_the_dtype_of_their_base_and_doras_magnitudes_stay_in_float32():
    model = get_peft_model(
        make_reward_model().bfloat16(), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, task_type="SEQ_CLS")
    )
    match_trained_dtype(model)
    found = {
        "magnitude" if "magnitude" in name else "rest": parameter.dtype
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert found == {"magnitude": torch.float32, "rest": torch.bfloat16}
