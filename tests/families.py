"""A tiny model of every family of causal language models: those that some version of transformers has no sequence
classifier for, and those that have one."""

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

# Taken by each configuration as far as it has them.
_TINY = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "initializer_range": 0.3},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": 16},
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1},
    **{"moe_intermediate_size": 16, "n_shared_experts": 1, "shared_expert_intermediate_size": 16, "topk_group": 1},
    **{"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"state_size": 8, "ssm_state_size": 8, "mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16},
    **{"mamba_num_heads": 4, "mamba_head_dim": 16, "num_heads": 8, "n_groups": 1, "mamba_n_groups": 1, "expand": 2},
    **{"chunk_size": 16, "mamba_chunk_size": 16, "first_k_dense_replace": 1, "conv_dim": 32},
    **{"index_n_heads": 2, "index_head_dim": 8, "index_topk": 64, "linear_num_key_heads": 2},
    **{"linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8, "global_head_dim": 8},
    **{"d_model": 32, "n_layer": 2, "n_head": 4, "n_embd": 32, "embedding_size": 32},
}
_LATENT = {"num_key_value_heads": 4}  # multi-head latent attention
_LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
_MAMBA = {"layer_types": ["mamba", "attention"]}
# Each family with what differs from that.
FAMILIES = {
    "afmoe": {},
    "apertus": {},
    "apertus1p5_text": {},
    "aria_text": {},
    "bamba": {"attn_layer_indices": [1]},
    "beam": {},
    "bitnet": {},
    "cohere": {},
    "cohere2": {},
    "cohere2_moe": {},
    "cwm": {},
    "deepseek_v32": _LATENT,
    "deepseek_v4": {},
    "dots1": {},
    "dory": {"num_hidden_layers": 3, "n_input_layers": 1, "n_output_layers": 1},
    "dots3_note_text": _LATENT,
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone": {},
    "exaone_moe": {},
    "falcon_h1": {"mamba_d_ssm": 64, "initializer_range": 0.1},
    "falcon_mamba": {},
    "flex_olmo": {},
    "flint": {},
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0},
    "gemma4_text": {},
    "gemma4_unified_text": {},
    "glm4_moe": {},
    "glm4_moe_lite": _LATENT,
    "glm_moe_dsa": _LATENT,
    "gpt_neox_japanese": {},
    "granite": {},
    "granite_swa": {},
    "granitemoe": {},
    "granitemoe_swa": {},
    "granitemoehybrid": _MAMBA,
    "granitemoeshared": {},
    "hrm_text": {},
    "hy_v3": {},
    "hy_v4": {},
    "hyperclovax": {},
    "inkling2_loop_text": {
        **{"num_hidden_layers": 3, "unpadded_vocab_size": 64, "n_layers_per_attn_res_block": 1},
        **{"loop_layer_index_start": 1, "loop_layer_index_end": 2},
    },
    "inkling2_text": {"unpadded_vocab_size": 64},
    "inkling_text": {},
    "internlm3": {},
    "iquestcoder": {},
    "jais2": {},
    "kimi_linear": _LINEAR
    | _LATENT
    | {
        "num_experts_per_token": 2,
        "linear_num_heads": 4,
        "linear_head_dim": 8,
        "mlp_layer_types": ["dense", "sparse"],
    },
    "kolibri1": {},
    "laguna": {},
    "lara_mini": {},
    "lfm2": {},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {},
    "longcat_flash": _LATENT
    | {"num_layers": 2, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 16, "moe_topk": 2, "zero_expert_num": 2},
    "mamba": {},
    "mamba2": {},
    "mellum": {},
    "mimo_v2_flash": {},
    "minimax_m2": {},
    "minimax_m3_vl_text": {},
    "nanochat": {},
    "nemotron_h": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmo_hybrid": {},
    "olmoe": {},
    "qwen3_5_moe_text": _LINEAR,
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"],
        **{"ngram_vocab_size_base": 64, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8},
        **{"indexer_budget": 64, "indexer_compress_ratio": 4},
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "sarvam_mla": _LATENT,
    "sarvam_moe": {},
    "solar_open": {},
    "vaultgemma": {},
    "xglm": {},
    "youtu": _LATENT,
    "zaya": {"num_experts_per_tok": 1},
}
# Decoders that transformers has a sequence classifier for.
_PLAIN = (
    *("arcee", "biogpt", "bloom", "diffllama", "doge", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text"),
    *("glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "helium", "hunyuan_v1_dense"),
    *("hunyuan_v1_moe", "jetmoe", "llama", "minimax", "ministral", "ministral3", "mistral", "mixtral", "mpt"),
    *("nemotron", "openai-gpt", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3"),
    *("qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2"),
)
CLASSIFIED = {
    **{family: {} for family in _PLAIN},
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "minicpm3"), _LATENT),
    **dict.fromkeys(("qwen3_5_text", "qwen3_next"), _LINEAR),
    "gptj": {"rotary_dim": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "zamba": {
        **{"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 2, "use_mamba_kernels": False},
    },
    "zamba2": {
        **{"layers_block_type": ["mamba", "hybrid"] * 2, "num_hidden_layers": 4, "num_mem_blocks": 1},
        **{"attention_hidden_size": 64, "attention_head_dim": 16, "initializer_range": 0.1},
    },
}
# Those that the installed version of transformers has.
AVAILABLE = sorted(FAMILIES.keys() & CONFIG_MAPPING.keys())
EVERY = sorted((FAMILIES.keys() | CLASSIFIED.keys()) & set(CONFIG_MAPPING.keys()))
# Read without a cache: these have none, or one of their own kind.
REFERENCE = {"minimax", "openai-gpt", "recurrent_gemma"}
# The version of transformers from which on a family's cache can be copied.
CACHED_SINCE = {"nemotron_h": "5.16"}
# Tried from this version on, because transformers' own model fails in 5.5.
TRIED_SINCE = {"doge": "5.23", "glm_moe_dsa": "5.23", "olmo_hybrid": "5.23"}
# Families that cannot be made reward models here, or are not tried.
OTHERS = {
    # Encoder-decoders, encoders, and decoders of images or sound.
    *("bert-generation", "blenderbot", "blenderbot-small", "git", "marian", "mllama", "moshi", "musicgen"),
    *("musicgen_melody", "pegasus", "prophetnet", "trocr", "whisper"),
    # Models around one of the families above, or around one that has a sequence classifier.
    *("dots3_note", "emu3", "fuyu", "gemma3n", "gemma4", "gemma4_assistant", "gemma4_unified", "got_ocr2", "llama4"),
    *("gemma4_unified_assistant", "moss_transcribe_diarize", "phi4_multimodal", "qwen3_5_moe", "qwen4_exp"),
    *("cohere_compass_text", "gemma3", "qwen3_5"),
    # Encoders that can be made to decode, whose classifiers read whole texts.
    *("bart", "bert", "big_bird", "bigbird_pegasus", "camembert", "data2vec-text", "electra", "ernie", "mbart"),
    *("megatron-bert", "modernbert-decoder", "mvp", "plbart", "reformer", "rembert", "roberta"),
    *("roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod", "ctrl"),
    # Older ones, and ones that read bytes.
    *("bailing_hybrid", "blt", "codegen", "cpmant", "dbrx", "rwkv", "xlstm"),
}


def tiny_config(family):
    """The configuration of a tiny model of a family, a key of `FAMILIES` or `CLASSIFIED`."""
    return tiny(CONFIG_MAPPING[family], (FAMILIES | CLASSIFIED)[family])


def tiny(config_class, different):
    """A tiny configuration of a class, with settings that differ from those of the others."""
    known = config_class().to_dict()
    return config_class(**{name: value for name, value in _TINY.items() if name in known} | different)


def tiny_language_model(family):
    """A tiny policy of a family."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(family)).eval()
