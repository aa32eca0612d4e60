"""A reward model made from a multimodal checkpoint reads text as the whole model does."""

import re

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, LlamaConfig, T5Config

from rgtg_hf import PrefixRewardConfig, PrefixRewardTrainer, RewardGuidedLogitsProcessor
from rgtg_hf.rewards.load import load_reward_model
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.rewards.text_decoder import text_decoder_of
from rgtg_hf.training.models import load_for_training
from tests.families import tiny
from tests.training.helpers import make_tokenizer
from tests.versions import is_at_least

_VISION = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_layers": 1},
    **{"image_size": 28, "patch_size": 14, "num_channels": 3, "in_channels": 3, "depth": 1, "num_heads": 4},
    **{"embed_dim": 32, "out_hidden_size": 32, "projection_dim": 32, "vision_output_dim": 32, "hidden_dim": 32},
    **{"projector_input_dim": 32, "projector_output_dim": 32, "fullatt_block_indexes": [0]},
    **{"deepstack_visual_indexes": [0], "num_position_embeddings": 4},
}
_ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
# Each kind with what its text decoder needs.
KINDS = {
    "gemma3": {},
    "gemma4": {},
    "glm4v": _ROTARY,
    "internvl": {},
    "lfm2_vl": {},
    "llama4": {},
    "llava": {},
    "mistral3": {},
    "paligemma": {},
    "qwen2_5_vl": _ROTARY,
    "qwen3_5": _LINEAR,
    "qwen3_5_moe": _LINEAR,
    "qwen3_vl": {},
    "smolvlm": {},
}
IDS = torch.tensor([[5, 9, 33, 7, 21, 40], [8, 8, 17, 50, 3, 4]])


def tiny_multimodal(kind):
    whole = CONFIG_MAPPING[kind]()
    text = whole.get_text_config(decoder=True)
    parts = {}
    for name in whole.sub_configs:
        if (part := getattr(whole, name, None)) is not None:
            known = part.to_dict()
            vision = {name: value for name, value in _VISION.items() if name in known}
            parts[name] = tiny(type(part), KINDS[kind]) if part is text else type(part)(**vision)
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(type(whole)(**parts)).eval()


@torch.no_grad()
def last_hidden(model):
    return model(input_ids=IDS, output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_text_as_the_whole_model_does(kind, tmp_path):
    if kind == "llama4" and is_at_least("5.24") and not is_at_least("5.25"):
        pytest.skip("transformers' own whole model fails")
    model = tiny_multimodal(kind)
    model.save_pretrained(tmp_path / "whole")
    reward_model = load_for_training(str(tmp_path / "whole"))
    assert_close(last_hidden(reward_model), last_hidden(model), atol=1e-5, rtol=1e-5)
    assert not any("vision" in name or "visual" in name for name, _ in reward_model.named_parameters())
    assert reward_model.config.name_or_path == str(tmp_path / "whole")
    reward_model.save_pretrained(tmp_path / "reward")
    loaded = load_reward_model(str(tmp_path / "reward"))
    with torch.no_grad():
        assert_close(prefix_rewards(loaded, IDS), prefix_rewards(reward_model, IDS))


@pytest.mark.parametrize("layout", ["language_model.model.", "model.language_model."])
def test_checkpoints_of_both_layouts_are_read(layout, tmp_path):
    model = tiny_multimodal("llava")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    found = load_file(file)
    either = re.compile(r"^(language_model\.model|model\.language_model)\.")
    assert any(either.match(name) for name in found)
    save_file({either.sub(layout, name): value for name, value in found.items()}, file, metadata={"format": "pt"})
    assert_close(last_hidden(load_for_training(str(tmp_path))), last_hidden(model))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_finds_the_decoder_of_its_base(tmp_path):
    tiny_multimodal("mistral3").save_pretrained(tmp_path / "whole")
    reward_model = load_for_training(str(tmp_path / "whole"), num_layers=1)
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(reward_model, lora).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.config.save_pretrained(tmp_path / "adapter" / "base_config")
    with torch.no_grad():
        expected = prefix_rewards(adapted, IDS)
        assert_close(prefix_rewards(load_reward_model(str(tmp_path / "adapter")), IDS), expected)


@pytest.mark.parametrize("config", [LlamaConfig(num_hidden_layers=1), T5Config()], ids=["text", "encoder-decoder"])
def test_other_configurations_stay_as_they_are(config):
    assert text_decoder_of(config) == (config, {})


def test_a_classifier_of_the_whole_model_stays_whole(tmp_path):
    config = tiny_multimodal("gemma3").config
    config.architectures = ["Gemma3ForSequenceClassification"]
    assert text_decoder_of(config) == (config, {})


def test_one_trained_from_a_policy_guides_it(tmp_path):
    policy = tiny_multimodal("mistral3")
    policy.save_pretrained(tmp_path / "policy")
    settings = {"bf16": False, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    trainer = PrefixRewardTrainer(
        str(tmp_path / "policy"),
        PrefixRewardConfig(str(tmp_path / "reward"), max_steps=2, **settings),
        train_dataset=Dataset.from_list(
            [{"chosen_ids": [5, 6, 7], "rejected_ids": [5, 6, 9], "prompt_length": 2}] * 8
        ),
        processing_class=make_tokenizer(),
    )
    trainer.train()
    trainer.save_model()
    processor = RewardGuidedLogitsProcessor(str(tmp_path / "reward"), beta=1e6, top_k=5)
    guided = policy.generate(
        input_ids=IDS, attention_mask=torch.ones_like(IDS), logits_processor=[processor], do_sample=False,
        max_new_tokens=1,
    )  # fmt: skip
    with torch.no_grad():
        candidates = policy(input_ids=IDS).logits[:, -1].topk(5).indices
        continued = torch.cat([IDS.repeat_interleave(5, 0), candidates.reshape(-1, 1)], 1)
        best = prefix_rewards(trainer.model.eval(), continued)[:, -1].view(2, 5).argmax(1)
    assert torch.equal(guided[:, -1], candidates.gather(1, best[:, None])[:, 0])


@pytest.mark.parametrize("of_text_alone", [False, True])
def test_a_policy_that_sees_an_image_is_steered_by_the_text(of_text_alone, tmp_path):
    policy = tiny_multimodal("llava")
    policy.config.image_token_id, policy.config.vision_feature_layer = 60, -1
    policy.save_pretrained(tmp_path)
    reward_model = load_for_training(str(tmp_path))
    torch.nn.init.normal_(reward_model.score.weight)
    ids, text = torch.tensor([[1, 60, 60, 60, 60, 5, 6]]), torch.tensor([[1, 5, 6]])
    seen = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.ones(1, 3, 28, 28)}
    processor = RewardGuidedLogitsProcessor(
        reward_model, beta=1e6, top_k=5, reward_prompts=text if of_text_alone else None
    )
    guided = policy.generate(**seen, logits_processor=[processor], do_sample=False, max_new_tokens=1)
    with torch.no_grad():
        candidates = policy(**seen).logits[0, -1].topk(5).indices
        prompt = (text if of_text_alone else ids).expand(5, -1)
        rewards = prefix_rewards(reward_model, torch.cat([prompt, candidates[:, None]], 1))[:, -1]
    assert guided[0, -1] == candidates[rewards.argmax()]
