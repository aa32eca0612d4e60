"""Loads a checkpoint, or its first few layers, as a reward model to train."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from rgtg_hf.rewards.load import HEADS, load_model, load_tokenizer, reading
from rgtg_hf.rewards.text_decoder import text_decoder_of
from rgtg_hf.training.shared_config import SharedConfig

__all__ = [
    "keep_first_layers",
    "load_for_training",
    "load_model_and_tokenizer",
    "load_policy_and_tokenizer",
    "match_trained_dtype",
]

logger = logging.get_logger(__name__)


def load_model_and_tokenizer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    args: SharedConfig,
    quantization_config: Any = None,
    labels: dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a model and a tokenizer that were given by name.

    Args:
        model: A model, which is returned as it is, or a name.
        tokenizer: A tokenizer, or `None` for the model's.
        args: Settings. `model_init_kwargs` is set to `None` after it was used.
        quantization_config: How to quantize a model given by name.
        labels: What the labels of a model given by name are, as entries of its configuration. One label by default.

    Returns:
        The model and the tokenizer.
    """
    if tokenizer is None:
        tokenizer = _tokenizer_of(model, args)
    if isinstance(model, str):
        model_kwargs = _take_model_kwargs(args)
        if quantization_config is not None:
            model_kwargs["quantization_config"] = quantization_config
        model = load_for_training(model, args.num_layers, seed=args.seed, labels=labels, **model_kwargs)
    elif args.num_layers is not None:
        logger.warning("`num_layers` is ignored: the model is built already. Give its name instead.")
    return model, tokenizer


def load_policy_and_tokenizer(
    model: Any, tokenizer: PreTrainedTokenizerBase | None, args: SharedConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a policy and a tokenizer that were given by name, the policy in the dtype of its checkpoint.

    Args:
        model: A policy, which is returned as it is, or a name.
        tokenizer: A tokenizer, or `None` for the policy's.
        args: Settings. `model_init_kwargs` is set to `None` after it was used.

    Returns:
        The policy and the tokenizer.
    """
    if tokenizer is None:
        tokenizer = _tokenizer_of(model, args)
    if isinstance(model, str):
        model = load_model(AutoModelForCausalLM, model, **{"dtype": "auto"} | _take_model_kwargs(args)).to(args.device)
    return model, tokenizer


def _tokenizer_of(model: Any, args: SharedConfig) -> PreTrainedTokenizerBase:
    init_kwargs: Any = args.model_init_kwargs or {}
    return load_tokenizer(
        model if isinstance(model, str) else model.config.name_or_path,
        revision=init_kwargs.get("revision"),
        trust_remote_code=args.trust_remote_code,
    )


def _take_model_kwargs(args: SharedConfig) -> dict[str, Any]:
    """The arguments of `from_pretrained` in the settings, where they are `None` afterwards."""
    taken: Any = args.model_init_kwargs or {}
    args.model_init_kwargs = None
    return {"trust_remote_code": args.trust_remote_code} | taken


def load_for_training(
    name_or_path: str,
    num_layers: int | None = None,
    *,
    seed: int = 42,
    labels: dict[str, Any] | None = None,
    **model_kwargs: Any,
) -> PreTrainedModel:
    """Loads a checkpoint as a sequence classifier with one label, keeping its first layers.

    A causal LM's checkpoint gets a fresh head, the same one for the same seed; a sequence classifier keeps its own.
    The deeper layers are never read into memory, and the model saves and loads like any other. Of a multimodal
    checkpoint, the text decoder is taken.

    Args:
        name_or_path: A name on the hub or a local directory.
        num_layers: Number of layers to keep, counted from the embedding. Defaults to all of them.
        seed: Seed of the fresh head. The global random state is left as it was.
        labels: What the labels are instead, as entries of the configuration: `num_labels` and so on. A checkpoint with
            another number of them gets a fresh head too.
        model_kwargs: Passed to `from_pretrained` (`dtype`, `revision`, `trust_remote_code`, ...). Weights are float32
            unless `dtype` says otherwise.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: If the checkpoint has fewer than `num_layers` layers, is damaged, or lacks weights other than the
            head's.

    Example:
        ```python
        import tempfile

        from transformers import LlamaConfig, LlamaForCausalLM
        from rgtg_hf.training.models import load_for_training

        config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
                             num_attention_heads=2)
        with tempfile.TemporaryDirectory() as folder:
            LlamaForCausalLM(config).save_pretrained(folder)
            model = load_for_training(folder, num_layers=2)
        assert model.config.num_hidden_layers == 2 and model.config.num_labels == 1
        ```
    """
    config_kwargs = {
        name: value
        for name, value in model_kwargs.items()
        if name in {"revision", "trust_remote_code", "token", "subfolder", "cache_dir", "local_files_only"}
    }
    with reading(name_or_path):
        config = AutoConfig.from_pretrained(name_or_path, **{"trust_remote_code": False} | config_kwargs)
    config, of_decoder = text_decoder_of(config)
    for name, value in (labels or {"num_labels": 1}).items():
        setattr(config, name, value)
    if num_layers is not None:
        keep_first_layers(config, num_layers)
    model_kwargs.setdefault("dtype", "float32")
    if labels is not None:
        model_kwargs["ignore_mismatched_sizes"] = True  # of the head; others are refused
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return load_model(
            AutoModelForSequenceClassification,
            name_or_path,
            fresh=(*HEADS, "pooler"),
            config=config,
            **of_decoder | model_kwargs,
        )


def match_trained_dtype(model: Any) -> None:
    """Gives the trained weights of a quantized model the dtype of the modules that were not quantized.

    TRL keeps them in bfloat16. The layers next to them may be float32, and then the two cannot be multiplied outside
    of the Trainer's autocast, in a run with `bf16=False` or while the trained model steers. DoRA's magnitude vectors
    stay in float32, as TRL keeps them: their updates are smaller than bfloat16 can represent.
    """
    dtype = model.get_input_embeddings().weight.dtype
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_magnitude_vector" not in name:
            parameter.data = parameter.data.to(dtype)


def keep_first_layers(config: PretrainedConfig, num_layers: int) -> None:
    """Makes a configuration describe its model's first layers only. Changes `config` in place.

    Args:
        config: Any configuration with `num_hidden_layers` (for GPT-2 that is another name of `n_layer`).
        num_layers: Number of layers to keep.

    Raises:
        ValueError: If the model has fewer layers, `num_layers` is below 1, or no layer with attention would be left.
    """
    config = config.get_text_config()
    total = config.num_hidden_layers
    if not 1 <= num_layers <= total:
        raise ValueError(f"`num_layers` is {num_layers}, but the model has {total} layers: give 1 to {total}.")
    # Lists with one entry per layer (`layer_types`, `no_rope_layers`, ...) must agree with the number of layers.
    per_layer = {
        name: value[:num_layers]
        for name, value in config.to_dict().items()
        if "layer" in name and isinstance(value, list) and len(value) == total
    }
    kinds = getattr(config, "layers_block_type", None) or getattr(config, "layer_types", None) or []
    attention = [place for place, kind in enumerate(kinds) if "attention" in kind and "linear" not in kind]
    if attention and num_layers <= attention[0]:
        raise ValueError(
            f"`num_layers` is {num_layers}, but the first {attention[0]} layers of this model have no attention, and "
            f"without one its cache cannot be used: give at least {attention[0] + 1}."
        )
    config.num_hidden_layers = num_layers
    for name, value in per_layer.items():
        setattr(config, name, value)
