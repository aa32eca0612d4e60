"""Loads reward models, whole or as adapters, and other checkpoints, from a folder or from the hub.

`from_pretrained` fills weights that a file lacks with random values, reads pickles where there are no safetensors, and
asks on the terminal whether to run a model's own code. The functions here refuse such files instead.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import cached_file, find_adapter_config_file, logging

import rgtg_hf.rewards.next_token  # noqa: F401  makes `Auto...` classes know its checkpoints
from rgtg_hf.rewards.sequence_classifiers import ensure_sequence_classifier, has_trained_head
from rgtg_hf.rewards.source import remember_source
from rgtg_hf.rewards.text_decoder import text_decoder_of, under_own_names

__all__ = ["BASE_CONFIG", "HEADS", "load_model", "load_reward_model", "load_tokenizer", "reading"]

HEADS = ("score", "classifier")
_LANGUAGE_MODELS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
# The folder in an adapter's with the configuration of the model beneath it. It has a folder of its own, because
# transformers takes a local folder with a config.json for a whole model.
BASE_CONFIG = "base_config"
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "merges.txt")
# The arguments of `from_pretrained` that say where a configuration is read from.
_WHERE = ("trust_remote_code", "revision", "token", "subfolder", "cache_dir", "local_files_only")


def load_reward_model(name: str, revision: str | None = None, **kwargs: Any) -> Any:
    """Loads a reward model, whole or as an adapter (LoRA) on the model that it was trained from.

    Args:
        name: A folder, or a name on the hub.
        revision: Which branch, tag or commit of the hub's repository.
        kwargs: For `from_pretrained`: `dtype` and so on. `trust_remote_code` is off unless it is given.

    Returns:
        A sequence classifier with one label, or a `PeftModel` of one.

    Raises:
        TypeError: If `name` is neither text nor a path.
        OSError: If there is no such model, or it has no weights as safetensors.
        ValueError: If its files are damaged or incomplete, or need code of their own that was not allowed.

    Example:
        ```python
        from rgtg_hf.rewards.load import load_reward_model

        reward_model = load_reward_model("my-reward-model", dtype="auto")
        ```
    """
    if not isinstance(name, (str, Path)):
        raise TypeError(f"`name` is {name!r}, but a folder or a name on the hub is required.")
    if not str(name):
        raise OSError("`name` is empty, but a folder or a name on the hub is required.")
    where: dict[str, Any] = {"revision": revision or "main"}
    adapter = find_adapter_config_file(name, **where)
    if adapter is None:
        model = load_model(AutoModelForSequenceClassification, name, **where, **kwargs)
    else:
        model = _load_adapter(name, adapter, where, kwargs)
    remember_source(model, name, revision)
    return model


def _load_adapter(name: str, adapter: str, where: dict[str, Any], kwargs: dict[str, Any]) -> Any:
    from peft import PeftModel

    with reading(name):
        base = json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"]
        trust = {"trust_remote_code": kwargs.get("trust_remote_code", False)}
        base_config, of_decoder = text_decoder_of(AutoConfig.from_pretrained(base, **trust))
        base_config.num_labels = 1
        # The base is a language model, which does not know of one label and perhaps of fewer layers. Training saves
        # the configuration that does beside the adapter. Other adapters have their base's depth.
        saved = None
        with suppress(OSError):
            saved = cached_file(name, "config.json", subfolder=BASE_CONFIG, **where)
        config = base_config
        if saved is not None:
            config = AutoConfig.from_pretrained(name, subfolder=BASE_CONFIG, **where, **trust)
            if getattr(config, "value_range", None) is None:
                config.num_labels = 1
        if hasattr(config, "quantization_config") and not hasattr(base_config, "quantization_config"):
            # QLoRA's base, whose files are not quantized. A configuration that says otherwise is taken at its word.
            kwargs = {"quantization_config": config.quantization_config} | kwargs
            del config.quantization_config
        weights = cached_file(name, "adapter_model.safetensors", **where)  # raises if there is a pickle only
        with safe_open(weights, framework="pt") as file:
            keys = list(file.keys())
    # A head that was trained whole is in the adapter. Otherwise it is the base's, with LoRA on it or without.
    brings_head = any(set(HEADS) & set(key.split(".")) and "lora_" not in key for key in keys)
    if not brings_head and not has_trained_head(base_config):
        raise ValueError(
            f"The adapter {name} lacks the weights of its score head, so its rewards would be random. Train it with "
            'task_type="SEQ_CLS", or with the head in modules_to_save.'
        )
    fresh = HEADS if brings_head else ()
    if type(config) is type(base_config):
        kwargs = of_decoder | kwargs
    model = load_model(AutoModelForSequenceClassification, base, fresh=fresh, config=config, **kwargs)
    with reading(name), warnings.catch_warnings():
        # PEFT would go on with random weights.
        warnings.filterwarnings("error", message=".*missing adapter keys")
        model = PeftModel.from_pretrained(model, name, **where)
    _check_finite(model, name)
    return model


def load_model(auto_class: Any, name: str, *, fresh: Collection[str] = (), **kwargs: Any) -> Any:
    """Calls `auto_class.from_pretrained` for safetensors alone, and refuses files that lack weights.

    Args:
        auto_class: `AutoModelForCausalLM`, `AutoModelForSequenceClassification` or a model class.
        name: A folder, or a name on the hub.
        fresh: Top-level modules that the file need not hold, and that get random values then.
        kwargs: For `from_pretrained`. `trust_remote_code` is off unless it is given.

    Returns:
        The model, in evaluation mode.

    Raises:
        OSError: If there is no such model, or it has no weights as safetensors.
        ValueError: If its files are damaged or incomplete, or need code of their own that was not allowed.
    """
    kwargs = {"use_safetensors": True, "trust_remote_code": False} | kwargs
    if auto_class is AutoModelForSequenceClassification:
        with reading(name):
            config = kwargs.get("config") or AutoConfig.from_pretrained(
                name, **{key: kwargs[key] for key in _WHERE if key in kwargs}
            )
            auto_class = ensure_sequence_classifier(config)
    is_quantized = "quantization_config" in kwargs or hasattr(kwargs.get("config"), "quantization_config")
    verbosity = logging.get_verbosity()
    # Missing weights are an error below, and surplus ones are expected here: neither needs a report.
    logging.set_verbosity_error()
    try:
        with reading(name):
            model, loading = auto_class.from_pretrained(name, output_loading_info=True, **kwargs)
            if kwargs.get("key_mapping") and not is_quantized:  # of a quantized model, adapters alone are saved
                model = under_own_names(model)
    finally:
        logging.set_verbosity(verbosity)
    of_another_size = [key for key, *_ in loading["mismatched_keys"]]
    lacking = [*loading["missing_keys"], *of_another_size]
    missing = sorted(key for key in lacking if key.split(".")[0] not in fresh)
    if missing:
        kind = ", ".join(getattr(model.config, "architectures", None) or []) or "of a kind that it does not name"
        if kind.endswith(_LANGUAGE_MODELS) and missing[0].split(".")[0] in HEADS:
            raise ValueError(
                f"{name} is a language model ({kind}), which gives no reward: name a reward model, or train one from "
                "it with PrefixRewardTrainer or `rgtg-hf train`."
            )
        raise ValueError(
            f"The checkpoint {name} ({kind}) lacks {len(missing)} weights that {type(model).__name__} needs, among "
            f"them `{missing[0]}`. It is incomplete, or of another architecture than is needed here."
        )
    _check_finite(model, name)
    return model


def load_tokenizer(name: str, **kwargs: Any) -> Any:
    """`AutoTokenizer.from_pretrained`, with code of its own off unless `trust_remote_code` is given.

    Raises:
        OSError: If there is no such tokenizer.
        ValueError: If its files are damaged, or need code of their own that was not allowed.
    """
    # Some versions of transformers make an empty tokenizer of a folder that has none.
    if Path(name).is_dir() and not any(any(Path(name).glob(kind)) for kind in _TOKENIZER_FILES):
        raise OSError(f"{name} holds no tokenizer: save the one that it reads by tokenizer.save_pretrained({name!r}).")
    with reading(name):
        return AutoTokenizer.from_pretrained(name, **{"trust_remote_code": False} | kwargs)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns the many exceptions of damaged files into one documented type."""
    try:
        yield
    except (OSError, ValueError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{name} cannot be read, so its files are damaged: {error}") from error


def _check_finite(model: nn.Module, name: str) -> None:
    for key, weight in model.named_parameters():
        # Formats of one byte cannot be tested, nor can weights that are not in memory.
        testable = weight.is_floating_point() and weight.element_size() > 1 and not weight.is_meta
        if testable and not torch.isfinite(weight).all():
            raise ValueError(
                f"The checkpoint {name} holds numbers that are not finite, among them in `{key}`: the file is "
                "damaged, or its training diverged."
            )
