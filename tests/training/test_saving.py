import importlib.util
import json

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig
from trl import RewardConfig

import rgtg_hf
from rgtg_hf import PrefixRewardConfig
from rgtg_hf.rewards.load import load_reward_model
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from tests.training.helpers import HIGHEST_LOSS_IS_BEST, make_policy, make_reward_model
from tests.versions import is_at_least

PICKLES = {".bin", ".pt", ".pkl"}


def test_a_saved_model_carries_all_that_steering_needs(make_trainer, rows, tmp_path):
    trainer = make_trainer(rows, evaluation=rows, max_steps=2, training_data="someone/pairs")
    trainer.train()
    trainer.evaluate()
    trainer.save_model(str(tmp_path / "saved"))
    saved = tmp_path / "saved"

    assert AutoModelForSequenceClassification.from_pretrained(saved).config.num_labels == 1
    assert AutoTokenizer.from_pretrained(saved).eos_token == "</s>"
    assert rgtg_hf.RewardGuidanceConfig.from_pretrained(saved) == rgtg_hf.RewardGuidanceConfig(beta=1.0, top_k=10)
    assert (saved / "accuracy_by_fraction_read.png").stat().st_size > 1000
    assert not [path for path in saved.iterdir() if path.suffix in PICKLES]
    curve = json.loads((saved / "accuracy_by_fraction_read.json").read_text())["eval"]
    assert curve["pairs"] == len(rows)
    assert len(curve["accuracy"]) == len(curve["fraction_read"]) == 10
    card = (saved / "README.md").read_text()
    assert "someone/pairs" in card
    assert "rashid2025critical" in card
    assert "| accuracy at 100 |" in card
    assert "- prefix-reward-model" in card
    assert "pipeline(" not in card
    written = card + "".join(path.read_text() for path in saved.glob("*.json") if path.name != "tokenizer.json")
    assert str(tmp_path) not in written


def test_what_is_saved_of_evaluations_is_that_of_the_best_checkpoint(make_trainer, rows, tmp_path):
    trainer = make_trainer(rows, evaluation=rows, max_steps=4, **HIGHEST_LOSS_IS_BEST)
    trainer.train()
    assert trainer.state.best_global_step < 4
    curve = json.loads((tmp_path / "run" / "accuracy_by_fraction_read.json").read_text())
    trainer.save_model(str(tmp_path / "saved"))
    card = (tmp_path / "saved" / "README.md").read_text()
    metrics = trainer.evaluate()
    assert trainer.curves["eval"] == curve["eval"]
    assert json.loads((tmp_path / "saved" / "accuracy_by_fraction_read.json").read_text()) == curve
    trainer.save_model(str(tmp_path / "again"))
    assert (tmp_path / "again" / "README.md").read_text() == card
    assert f"| loss | {metrics['eval_loss']:.4g} |" in card


def test_push_to_hub_uploads_what_was_saved(make_trainer, rows, trainer_hub):
    trainer = make_trainer(rows, max_steps=1, hub_model_id="someone/prefix-rm")
    trainer.train()
    trainer.push_to_hub(dataset_name="someone/pairs")

    uploaded = trainer_hub / "someone/prefix-rm"
    card = (uploaded / "README.md").read_text()
    assert 'from_pretrained("someone/prefix-rm", num_labels=1)' in card
    assert "- someone/pairs" in card
    assert {"config.json", "model.safetensors", "tokenizer.json", "guidance_config.json"} <= {
        path.name for path in uploaded.iterdir()
    }
    assert AutoModelForSequenceClassification.from_pretrained(uploaded).config.num_labels == 1


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", [PrefixRewardConfig, RewardConfig])
def test_checkpoints_upload_nothing(make_trainer, rows, trainer_hub, kind):
    """With them the Trainer uploads its settings as a pickle, which holds the token."""
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "config_class": kind}
    trainer = make_trainer(rows, push_to_hub=True, hub_model_id="someone/prefix-rm", hub_token="hf_secret", **options)
    trainer.train()
    assert not trainer_hub.exists()
    trainer.save_model()
    uploaded = [path for path in trainer_hub.rglob("*") if path.is_file()]
    assert "model.safetensors" in {path.name for path in uploaded}
    assert not [path for path in uploaded if path.suffix in PICKLES or b"hf_secret" in path.read_bytes()]


def test_hidden_states_are_not_uploaded(make_trainer, make_head, rows, trainer_hub, tmp_path):
    trainer = make_trainer(rows, model=make_head(), max_steps=1, hub_model_id="someone/head")
    trainer.train()
    trainer.push_to_hub()
    assert (tmp_path / "run/_hidden_states/hidden_states.bin").is_file()
    uploaded = {path.name for path in (trainer_hub / "someone/head").rglob("*")}
    assert "model.safetensors" in uploaded
    assert not {name for name in uploaded if "hidden_states" in name or name == "index.jsonl"}


LORA = {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["q_proj"]}
# How a reward model is trained: from a policy or a classifier, with which adapter, in how many of its three layers.
TRAININGS = {
    "whole": ("policy", None, None),
    "whole, first layers": ("policy", None, 2),
    "LoRA": ("policy", LORA, None),
    "LoRA, first layers": ("policy", LORA, 2),
    "DoRA, first layers": ("policy", LORA | {"use_dora": True}, 2),
    "LoRA, head left as it is": ("classifier", LORA | {"task_type": None}, None),
    "LoRA on the head, first layers": ("classifier", LORA | {"task_type": None, "target_modules": ["score"]}, 2),
}


def plainly_loaded(folder, adapter, base):
    """As the card says to load it without this package."""
    if adapter is None:
        return AutoModelForSequenceClassification.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder, subfolder="base_config")
    model = AutoModelForSequenceClassification.from_pretrained(base, config=config)
    return PeftModel.from_pretrained(model, folder)


# PEFT asks transformers a question by a name that transformers is about to retire.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("training", TRAININGS)
def test_a_saved_reward_model_is_complete(training, make_trainer, rows, tmp_path):
    base, adapter, num_layers = TRAININGS[training]
    # As Llama's, the bases have no padding token; it comes from the tokenizer.
    settings = {"num_hidden_layers": 3, "pad_token_id": None}
    model = make_policy(**settings) if base == "policy" else make_reward_model(**settings)
    model.save_pretrained(tmp_path / base)
    peft = {} if adapter is None else {"peft_config": LoraConfig(**adapter)}
    options = {"max_steps": 3, "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 3}
    trainer = make_trainer(rows, model=str(tmp_path / base), num_layers=num_layers, trainer_kwargs=peft, **options)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    ids = torch.tensor([[5, 6, 7]])
    expected = prefix_rewards(trainer.model.eval(), ids)
    for folder in (tmp_path / "saved", tmp_path / "run" / "checkpoint-3"):
        loaded = [load_reward_model(str(folder)), plainly_loaded(folder, adapter, tmp_path / base)]
        if adapter is not None and num_layers is None and is_at_least("5.18"):  # it left the head at random values
            loaded.append(AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1))
        for one in loaded:
            torch.testing.assert_close(prefix_rewards(one.eval(), ids), expected)
            assert one.config.num_hidden_layers == (num_layers or 3)
        for one in loaded[:2]:
            assert one.config.pad_token_id == trainer.model.config.pad_token_id == 0
        assert str(tmp_path) not in (folder / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_qlora_learns_and_its_adapter_loads_on_a_quantized_model(make_trainer, rows, tmp_path):
    make_policy(hidden_size=64, intermediate_size=64).save_pretrained(tmp_path / "policy")
    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj", "v_proj"])
    trainer = make_trainer(
        rows,
        model=str(tmp_path / "policy"),
        evaluation=rows,
        max_steps=20,
        learning_rate=1e-2,
        trainer_kwargs={"peft_config": lora, "quantization_config": four_bits},
    )
    layer = trainer.model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    assert type(layer).__name__ == "Linear4bit"
    # Not evaluated before: on a CPU bitsandbytes then packs the weights in a way that training cannot go through.
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert trainer.evaluate()["eval_loss"] < 0.7 * losses[0]
    trainer.save_model(str(tmp_path / "saved"))
    loaded = load_reward_model(str(tmp_path / "saved"))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(prefix_rewards(loaded, ids), prefix_rewards(trainer.model.eval(), ids))
