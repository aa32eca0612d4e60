"""Tiny models, built in memory from a configuration: no test needs a network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

VOCAB_SIZE = 40
PAD, BOS, EOS = 0, 1, 2


def tiny_llama_config(**overrides):
    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "initializer_range": 0.4,
    }
    return LlamaConfig(**settings | overrides)


@pytest.fixture(scope="session")
def tiny_policy():
    torch.manual_seed(1)
    return LlamaForCausalLM(tiny_llama_config()).eval()


@pytest.fixture(scope="session")
def tiny_reward_model():
    torch.manual_seed(2)
    return LlamaForSequenceClassification(tiny_llama_config(num_labels=1)).eval()
