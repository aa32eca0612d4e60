"""Reward models of the families that transformers has no sequence classifier for."""

import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.testing import assert_close
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    BlenderbotConfig,
    GraniteConfig,
    GraniteForCausalLM,
    Llama4Config,
)

from rgtg_hf import NextTokenRewardModel, PrefixRewardConfig, PrefixRewardTrainer
from rgtg_hf.rewards.causal_classifier import check_reward_model
from rgtg_hf.rewards.load import load_reward_model
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.rewards.sequence_classifiers import ensure_sequence_classifier
from rgtg_hf.scoring.choose import choose_scorer
from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.training.models import load_for_training
from tests.families import (
    CACHED_SINCE,
    CLASSIFIED,
    EVERY,
    FAMILIES,
    OTHERS,
    REFERENCE,
    TRIED_SINCE,
    tiny_config,
    tiny_language_model,
)
from tests.training.helpers import make_tokenizer, text_rows
from tests.versions import is_at_least

# PEFT asks transformers a question by a name that transformers is about to retire.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`input_embeds` is deprecated:FutureWarning"),  # Nemotron-H of transformers 5.5
]
IDS = torch.tensor([[5, 9, 14, 31, 7, 3, 22, 40]])
# Those that are tried by default; the others are slow only because they are many.
ALWAYS = {
    "gemma4_text",
    "llama4_text",
    "glm4_moe",
    "lfm2",
    "granitemoehybrid",
    "nemotron_h",
    "qwen3_5_moe_text",
    "mamba2",
}


def reward_model_from(family, folder):
    tiny_language_model(family).save_pretrained(folder)
    model = load_for_training(str(folder))
    torch.nn.init.normal_(model.score.weight)
    return model


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in ALWAYS else pytest.mark.slow) for f in EVERY])
def test_a_policy_becomes_a_reward_model_that_is_right_and_can_be_saved(family, tmp_path):
    if not is_at_least(TRIED_SINCE.get(family, "5")):
        pytest.skip("transformers' own model fails")
    policy = tiny_language_model(family)
    model = reward_model_from(family, tmp_path / "policy")
    with torch.no_grad():
        decoder = policy.model if hasattr(policy, "model") else policy.base_model
        assert_close(model.base_model(IDS).last_hidden_state, decoder(IDS).last_hidden_state)
        rewards = prefix_rewards(model, IDS)
        alone = torch.stack([prefix_rewards(model, IDS[:, : end + 1])[:, -1] for end in range(IDS.shape[1])], dim=1)
    assert_close(rewards, alone, atol=1e-3, rtol=1e-3)
    check_reward_model(model)
    model.save_pretrained(tmp_path / "reward")
    loaded = load_reward_model(str(tmp_path / "reward"))
    assert_close(prefix_rewards(loaded, IDS), rewards, atol=1e-4, rtol=1e-4)
    is_cached = family not in REFERENCE and is_at_least(CACHED_SINCE.get(family, "5"))
    assert isinstance(choose_scorer(model), ReferenceScorer) == (not is_cached)


def test_a_next_token_model_on_them_loads_with_the_buffers_that_no_file_holds(tmp_path):
    model = NextTokenRewardModel.from_backbone(reward_model_from("falcon_h1", tmp_path / "policy"), rank=4)
    for parameter in model.score.parameters():
        torch.nn.init.normal_(parameter)
    model.eval().save_pretrained(tmp_path / "reward")
    loaded = load_reward_model(str(tmp_path / "reward"))
    assert_close(prefix_rewards(loaded, IDS), prefix_rewards(model, IDS))


@pytest.mark.parametrize(("family", "least"), [("qwen3_5_moe_text", 2), ("lfm2_moe", 2)])
def test_too_few_layers_name_the_least_number_that_works(family, least, tmp_path):
    tiny_language_model(family).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"give at least {least}"):
        load_for_training(str(tmp_path), num_layers=least - 1)


def test_a_policy_of_such_a_family_is_trained_and_loaded(tmp_path):
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    settings = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    settings |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "initializer_range": 0.3}
    GraniteForCausalLM(GraniteConfig(**settings)).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    quiet = {"report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True, "num_layers": 1}
    for lora in (None, LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"], target_modules="all-linear")):
        output = tmp_path / ("whole" if lora is None else "adapter")
        config = PrefixRewardConfig(output_dir=str(output), max_steps=2, **quiet)
        trainer = PrefixRewardTrainer(
            str(tmp_path / "policy"), config, train_dataset=Dataset.from_list(text_rows()), peft_config=lora
        )
        trainer.train()
        trainer.save_model()
        ids = torch.tensor([trainer.train_dataset[0]["chosen_ids"]])
        loaded = load_reward_model(str(output))
        assert_close(prefix_rewards(loaded, ids), prefix_rewards(trainer.model.eval(), ids))
        card = (output / "README.md").read_text()
        assert f'reward_model = load_reward_model("{output.name}")' in card
        assert ("modeling_reward.py" in card) == (lora is None)


def test_every_family_of_language_models_is_known():
    causal = {config.model_type for config in MODEL_FOR_CAUSAL_LM_MAPPING}
    assert causal <= FAMILIES.keys() | CLASSIFIED.keys() | OTHERS, "add the family to tests/families.py"


@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_last_token_that_is_not_padding_is_scored(padding):
    config = tiny_config("granite")
    config.num_labels = 1
    model = ensure_sequence_classifier(config)(config).eval()
    pad = torch.zeros(1, 3, dtype=torch.long)
    batch = torch.cat([pad, IDS] if padding == "left" else [IDS, pad], dim=1)
    mask = (batch != 0).long()
    batch, mask = torch.cat([batch, batch.flip(1)]), torch.cat([mask, mask.flip(1)])
    logits = model(input_ids=batch, attention_mask=mask).logits
    assert logits.shape == (2, 1)
    assert_close(logits[:1], model(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)
    assert model(input_ids=IDS, labels=torch.zeros(1)).loss is not None
    config.pad_token_id = None
    with pytest.raises(ValueError, match="set it in its config"):
        model(input_ids=batch)


def test_a_checkpoint_loads_without_this_package_where_its_code_is_trusted(tmp_path):
    model = reward_model_from("granite", tmp_path / "policy")
    model.save_pretrained(tmp_path / "reward")
    script = (
        "import sys; from transformers import AutoModelForSequenceClassification as Auto; import torch\n"
        "model = Auto.from_pretrained(sys.argv[1], trust_remote_code=sys.argv[2] == 'yes')\n"
        f"print(model(input_ids=torch.tensor({IDS.tolist()})).logits.item())\n"
        "assert not any(name.startswith('rgtg_hf') for name in sys.modules)"
    )
    run = [sys.executable, "-c", script, str(tmp_path / "reward")]
    trusted = subprocess.run([*run, "yes"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(trusted.stdout.split()[-1]) == pytest.approx(model(input_ids=IDS).logits.item(), abs=1e-4)
    refused = subprocess.run([*run, "no"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert refused.returncode
    assert "trust_remote_code" in refused.stderr


def test_a_model_that_is_no_decoder_of_text_is_refused_in_a_sentence(tmp_path):
    for config in (BlenderbotConfig(), Llama4Config()):
        with pytest.raises(ValueError, match=f"type '{config.model_type}' cannot be a reward model"):
            ensure_sequence_classifier(config)
    BlenderbotConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Train a reward model from a smaller language model"):
        load_for_training(str(tmp_path))
