"""Sequence classifiers for the families of causal language models that transformers has none for.

About half of the families have no `...ForSequenceClassification`. The classes that are made here have the family's own
configuration and weights, so a policy's checkpoint can be loaded as a reward model to train.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from rgtg_hf.files import write_whole
from rgtg_hf.rewards import decoder_classifier
from rgtg_hf.rewards.decoder_classifier import DecoderClassifier

__all__ = ["ensure_sequence_classifier", "has_trained_head"]

_MADE: dict[type[PretrainedConfig], Any] = {}
_CODE_NAME = "modeling_reward"
_CODE = """

from {module} import {base}  # noqa: E402


class {name}(DecoderClassifier, {base}):
    base_model_prefix = "{prefix}"
"""


class _SavedWithCode(DecoderClassifier):
    """Its checkpoints hold its class as well, so that they load without this package where their code is trusted."""

    def __init__(self, config: Any):
        super().__init__(config)
        name = f"{_CODE_NAME}.{type(self).__name__}"
        self.config.auto_map = {"AutoModelForSequenceClassification": name}  # type: ignore[attr-defined]

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As `PreTrainedModel.save_pretrained`."""
        kind: Any = type(self)
        if kwargs.get("is_main_process", True):
            base = _pretrained_class(kind)
            own = {"module": base.__module__, "base": base.__name__}
            code = inspect.getsource(decoder_classifier).rstrip() + "\n"
            code += _CODE.format(name=kind.__name__, prefix=kind.base_model_prefix, **own)
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            write_whole(Path(save_directory) / f"{_CODE_NAME}.py", code)
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]


def ensure_sequence_classifier(config: PretrainedConfig) -> Any:
    """Makes a sequence classifier for a family of causal language models, where transformers has none.

    `AutoModelForSequenceClassification` is told of it, which transformers 5.14 to 5.18 ignore.

    Args:
        config: A configuration of the family.

    Returns:
        The class to call `from_pretrained` of: the one that was made. Where transformers has a sequence classifier, or
        where the configuration brings code of its own, `AutoModelForSequenceClassification`.

    Raises:
        ValueError: If the family has no decoder-only language model.

    Example:
        ```python
        from transformers import GraniteConfig
        from rgtg_hf.rewards.sequence_classifiers import ensure_sequence_classifier

        config = GraniteConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                               num_attention_heads=2, num_key_value_heads=2, num_labels=1)
        reward_model = ensure_sequence_classifier(config)(config)
        assert type(reward_model).__name__ == "GraniteForSequenceClassification"
        ```
    """
    family = type(config)
    if family in _MADE:
        return _MADE[family]
    own_code = not family.__module__.startswith("transformers.")
    if own_code or family in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return AutoModelForSequenceClassification
    is_decoder = config.get_text_config() is config and not getattr(config, "is_encoder_decoder", False)
    if not is_decoder or family not in MODEL_MAPPING:
        raise ValueError(
            f"A model of the type {config.model_type!r} cannot be a reward model: transformers has no sequence "
            "classifier for it, and none can be made, since it is not a decoder of text alone. Train a reward model "
            "from a smaller language model with the same tokenizer."
        )
    # The text decoders of some multimodal families are no language models by themselves.
    own: Any = MODEL_FOR_CAUSAL_LM_MAPPING[family] if family in MODEL_FOR_CAUSAL_LM_MAPPING else MODEL_MAPPING[family]
    base = _pretrained_class(own)
    name = own.__name__.removesuffix("ForCausalLM").removesuffix("LMHeadModel").removesuffix("Model")
    name += "ForSequenceClassification"
    settings = {"base_model_prefix": base.base_model_prefix or "model", "config_class": family, "__module__": __name__}
    _MADE[family] = type(name, (_SavedWithCode, base), settings)
    # For a configuration of transformers' own, only exist_ok registers anything.
    AutoModelForSequenceClassification.register(family, _MADE[family], exist_ok=True)
    return _MADE[family]


def has_trained_head(config: PretrainedConfig) -> bool:
    """Whether the checkpoint of this configuration is a sequence classifier, whose score head is in its file."""
    return any("SequenceClassification" in name for name in config.architectures or [])


def _pretrained_class(kind: type) -> Any:
    """The class of a family that all its models have in common."""
    return next(
        one
        for one in kind.__mro__[1:]
        if issubclass(one, PreTrainedModel) and one.__name__.endswith("PreTrainedModel") and one is not PreTrainedModel
    )
