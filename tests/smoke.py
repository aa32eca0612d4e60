"""What an installed wheel must do with nothing but its own requirements. `make wheel` runs it outside the checkout."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

import rgtg_hf
from rgtg_hf import RewardGuidedLogitsProcessor

place = Path(rgtg_hf.__file__).parent
assert place.is_relative_to(sys.prefix), f"the checkout was imported, not the wheel: {place}"
assert files("rgtg_hf").joinpath("py.typed").is_file()
for name in ("pairs.jsonl", "prompts.jsonl", "settings.json"):
    assert files("rgtg_hf").joinpath("cli", "demo", "demo_data", name).is_file(), name

config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=1
)
policy, reward_model = LlamaForCausalLM(config), LlamaForSequenceClassification(config)
processor = RewardGuidedLogitsProcessor(reward_model, beta=1.5, top_k=5)
output = policy.generate(torch.tensor([[5, 6, 7]]), logits_processor=[processor], max_new_tokens=4, pad_token_id=0)
assert output.shape == (1, 7)

command = [Path(sys.executable).with_name("rgtg-hf"), "--version"]
print(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), "is installed and steers")
