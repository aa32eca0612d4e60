"""Tiny checkpoints on disk, with a tokenizer that reads any text byte by byte."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tests.tiny_models import tiny_steering_head

SPECIAL = ["<pad>", "<start>", "<end>"]
TEMPLATE = (
    "{% for message in messages %}<start>{{ message.role }}:{{ message.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant:{% endif %}"
)


def byte_tokenizer(chat_template=TEMPLATE, extra=()):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet, *extra])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", eos_token="<end>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def save(folder, model_class, tokenizer, seed, **overrides):
    torch.manual_seed(seed)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model_class(LlamaConfig(**settings | overrides)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    return save(folder, LlamaForCausalLM, byte_tokenizer(), seed=1, num_hidden_layers=3)


@pytest.fixture(scope="session")
def reward_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("reward"), LlamaForSequenceClassification, byte_tokenizer(), 2, num_labels=1)


@pytest.fixture(scope="session")
def foreign_reward_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    return save(folder, LlamaForSequenceClassification, byte_tokenizer(extra=["xy"]), seed=3, num_labels=1)


@pytest.fixture(scope="session")
def head_folder(tmp_path_factory, policy_folder):
    """A steering head of the policy. It has no tokenizer."""
    folder = tmp_path_factory.mktemp("head")
    tiny_steering_head(AutoModelForCausalLM.from_pretrained(policy_folder)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def quiet_libraries(tmp_path_factory, monkeypatch):
    """Caches of data sets go to the test's own folder, and settings that commands make are undone."""
    import datasets
    from transformers.utils import logging

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()
    datasets.enable_progress_bars()
