import importlib.util
import json
import re
import shutil
import types

import pytest
import torch
import transformers
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

import rgtg_hf
from rgtg_hf import NextTokenRewardModel
from rgtg_hf.rewards.load import load_reward_model
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.training.card import data_name
from rgtg_hf.training.curve import summarize
from tests.training.helpers import make_policy, text_rows


def test_a_saved_model_carries_all_that_steering_needs(make_trainer, rows, tmp_path):
    trainer = make_trainer(rows, evaluation=rows, max_steps=2, training_data="someone/pairs")
    trainer.train()
    trainer.evaluate()
    trainer.save_model(str(tmp_path / "saved"))
    saved = tmp_path / "saved"

    assert AutoModelForSequenceClassification.from_pretrained(saved).config.num_labels == 1
    assert AutoTokenizer.from_pretrained(saved).eos_token == "</s>"
    assert rgtg_hf.RewardGuidanceConfig.from_pretrained(saved) == rgtg_hf.RewardGuidanceConfig()
    assert (saved / "accuracy_by_fraction_read.png").stat().st_size > 1000
    assert not [path for path in saved.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]
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


KINDS = {
    "classifier": lambda policy: None,
    "next token": NextTokenRewardModel.from_backbone,
    "steering head": NextTokenRewardModel.from_policy,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_cards_code_steers_a_policy(make_trainer, rows, tmp_path, monkeypatch, capsys, kind):
    make_policy().save_pretrained(tmp_path / "policy")
    trainer = make_trainer(rows, model=KINDS[kind](make_policy()), max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "run"))
    trainer.processing_class.save_pretrained(tmp_path / "policy")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "run" / "README.md").read_text(), re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("your/language-model", "policy").replace("max_new_tokens=64", "max_new_tokens=4"), {})
    assert capsys.readouterr().out.strip()


def test_push_to_hub_uploads_what_was_saved(make_trainer, rows, tmp_path, monkeypatch):
    uploads = []

    class Hub:
        def create_repo(self, repo_id, **kwargs):
            return types.SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, folder_path, repo_id, **kwargs):
            shutil.copytree(folder_path, tmp_path / "hub")
            uploads.append(repo_id)

    monkeypatch.setattr(transformers.trainer, "hf_api", Hub)
    trainer = make_trainer(rows, max_steps=1, hub_model_id="someone/prefix-rm")
    trainer.train()
    trainer.push_to_hub(dataset_name="someone/pairs")

    assert uploads == ["someone/prefix-rm"]
    card = (tmp_path / "hub" / "README.md").read_text()
    assert 'from_pretrained("someone/prefix-rm", num_labels=1)' in card
    assert "- someone/pairs" in card
    assert {"config.json", "model.safetensors", "tokenizer.json", "guidance_config.json"} <= {
        path.name for path in (tmp_path / "hub").iterdir()
    }
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "hub").config.num_labels == 1


# PEFT asks transformers a question by a name that transformers is about to retire.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_loads_with_its_head(make_trainer, rows, tmp_path):
    make_policy().save_pretrained(tmp_path / "policy")
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])
    trainer = make_trainer(
        rows, model=str(tmp_path / "policy"), max_steps=3, learning_rate=1e-2, trainer_kwargs={"peft_config": lora}
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", num_labels=1)
    loaded.config.pad_token_id = 0
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(loaded(ids).logits, trainer.model.eval()(input_ids=ids).logits)


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
    loaded = load_reward_model(str(tmp_path / "saved"), quantization_config=four_bits)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(prefix_rewards(loaded, ids), prefix_rewards(trainer.model.eval(), ids))


def test_resuming_from_another_run_is_refused(make_trainer, rows, tmp_path):
    make_trainer(rows, max_steps=2, save_strategy="steps", save_steps=2).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    with pytest.raises(ValueError, match=r"is from another run: after_end was 'hold' and is 'drop'\. Resume with"):
        make_trainer(rows, max_steps=4, after_end="drop").train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="is from another run: rows was 8 and is 9"):
        make_trainer(text_rows(9), max_steps=4).train(resume_from_checkpoint=True)
    (tmp_path / "run" / "checkpoint-2" / "prefix_training.json").unlink()
    with pytest.raises(ValueError, match="not a checkpoint of PrefixRewardTrainer"):
        make_trainer(rows, max_steps=4).train(resume_from_checkpoint=checkpoint)
    with pytest.raises(ValueError, match="no checkpoint directory"):
        make_trainer(rows, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "nowhere"))


def test_the_hub_name_of_a_data_set_is_found():
    info = types.SimpleNamespace(download_checksums={"hf://datasets/someone/pairs@0123abc/data/train.parquet": {}})
    assert data_name(types.SimpleNamespace(info=info)) == "someone/pairs"
    assert data_name(None) is None


def test_a_curve_has_means_and_standard_errors():
    curve = summarize({0.5: [1.0, 0.0, 1.0, 1.0], 1.0: [1.0] * 4})
    assert curve["fraction_read"] == [0.5, 1.0]
    assert curve["accuracy"] == [0.75, 1.0]
    assert curve["standard_error"] == pytest.approx([0.25, 0.0])
