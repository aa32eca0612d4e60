"""Tiny random models, built in memory from their configurations."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForSequenceClassification,
    Gemma2Config,
    Gemma2ForSequenceClassification,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPTNeoConfig,
    GPTNeoForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForSequenceClassification,
    JambaConfig,
    JambaForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    MptConfig,
    MptForSequenceClassification,
    OPTConfig,
    OPTForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from rgtg_hf import NextTokenRewardModel, RewardGuidedGenerationMixin

VOCAB_SIZE = 40
PAD, BOS, EOS = 0, 1, 2

_SPECIAL = {"vocab_size": VOCAB_SIZE, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_LLAMA_LIKE = _SPECIAL | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.4,
}
_GEMMA_LIKE = _LLAMA_LIKE | {"head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 8}

# Family: configuration class, sequence classifier class, settings, the scorer that a probe should find.
FAMILIES = {
    "llama": (LlamaConfig, LlamaForSequenceClassification, _LLAMA_LIKE, "siblings"),
    "gpt2": (
        GPT2Config,
        GPT2ForSequenceClassification,
        _SPECIAL | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.4},
        "siblings",
    ),
    "qwen2": (Qwen2Config, Qwen2ForSequenceClassification, _LLAMA_LIKE, "siblings"),
    "qwen3": (Qwen3Config, Qwen3ForSequenceClassification, _LLAMA_LIKE | {"head_dim": 8}, "siblings"),
    "mistral": (MistralConfig, MistralForSequenceClassification, _LLAMA_LIKE | {"sliding_window": 7}, "siblings"),
    "gemma2": (Gemma2Config, Gemma2ForSequenceClassification, _GEMMA_LIKE, "siblings"),
    "gemma3": (
        Gemma3TextConfig,
        Gemma3TextForSequenceClassification,
        _GEMMA_LIKE | {"layer_types": ["sliding_attention", "full_attention"]},
        "siblings",
    ),
    "gpt_neox": (
        GPTNeoXConfig,
        GPTNeoXForSequenceClassification,
        {key: value for key, value in _LLAMA_LIKE.items() if key != "num_key_value_heads"},
        "siblings",
    ),
    "opt": (
        OPTConfig,
        OPTForSequenceClassification,
        _SPECIAL
        | {
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            "init_std": 0.4,
        },
        "siblings",
    ),
    "gpt_neo": (
        GPTNeoConfig,
        GPTNeoForSequenceClassification,
        _SPECIAL
        | {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 7,
            "max_position_embeddings": 256,
            "initializer_range": 0.4,
        },
        "expand",
    ),
    "bloom": (
        BloomConfig,
        BloomForSequenceClassification,
        _SPECIAL | {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.4},
        "expand",
    ),
    "mpt": (
        MptConfig,
        MptForSequenceClassification,
        _SPECIAL | {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256, "initializer_range": 0.4},
        "expand",
    ),
    "jamba": (
        JambaConfig,
        JambaForSequenceClassification,
        _LLAMA_LIKE
        | {
            "num_hidden_layers": 4,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "mamba_d_state": 4,
            "mamba_d_conv": 3,
            "use_mamba_kernels": False,
        },
        "hybrid",
    ),
}


class GuidedLlama(RewardGuidedGenerationMixin, LlamaForCausalLM):
    pass


def tiny_policy(seed=1, model_class=LlamaForCausalLM, **overrides):
    torch.manual_seed(seed)
    return model_class(LlamaConfig(**_LLAMA_LIKE | overrides)).eval()


def tiny_reward_model(family="llama", seed=2, **overrides):
    torch.manual_seed(seed)
    config_class, model_class, settings, _ = FAMILIES[family]
    model = model_class(config_class(**settings | {"num_labels": 1} | overrides)).eval()
    # Heads start near zero; a head of ordinary size makes rewards differ enough to see mistakes.
    torch.nn.init.normal_(model.score.weight)
    return model


def tiny_encoder(vocab_size, seed=5, **overrides):
    """A reward model that reads whole texts in both directions."""
    torch.manual_seed(seed)
    settings = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "num_labels": 1,
        "pad_token_id": PAD,
        "initializer_range": 0.4,
    }
    return BertForSequenceClassification(BertConfig(vocab_size=vocab_size, **settings | overrides)).eval()


def tiny_next_token_model(family="llama", seed=2, **overrides):
    """A next-token reward model with a backbone of its own."""
    model = NextTokenRewardModel.from_backbone(tiny_reward_model(family, seed, **overrides), rank=4)
    return _fill_head(model, seed)


FULL = {"nonlinear": True, "context_scale": 1.0}


def tiny_steering_head(policy, seed=3, **settings):
    # What a head reads in the context must show in tests, however little a fresh head makes of it.
    return _fill_head(NextTokenRewardModel.from_policy(policy, rank=4, **FULL | settings), seed)


def _fill_head(model, seed):
    # A fresh head rates every token 0.
    torch.manual_seed(seed)
    for parameter in model.score.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.score.center(1 + torch.randn(9, model.config.hidden_size))
    return model.eval()


def left_padded(rows):
    """Ids and mask of a left-padded batch."""
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
