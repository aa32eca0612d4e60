"""The text decoder of a multimodal checkpoint, which is what a reward model of text is made from."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig

from rgtg_hf.rewards.sequence_classifiers import has_trained_head

__all__ = ["text_decoder_of", "under_own_names"]

# Where multimodal checkpoints hold the weights of their text decoder, old ones and new ones.
_WEIGHTS = {r"^(model\.)?(language_model|text_model)\.(model\.)?": "model."}


def text_decoder_of(config: PretrainedConfig) -> tuple[PretrainedConfig, dict[str, Any]]:
    """Finds the text decoder of a multimodal model (Llama 4, Mistral 3, Gemma 4, the Qwen-VL kinds, ...).

    To text without images it gives the hidden states that the whole model gives.

    Args:
        config: The configuration of a checkpoint.

    Returns:
        The decoder's configuration, and what `from_pretrained` needs to find its weights in the checkpoint. Of a model
        of text alone, a sequence classifier or an encoder-decoder, the configuration itself and nothing.

    Example:
        ```python
        from transformers import LlamaConfig, LlavaConfig
        from rgtg_hf.rewards.text_decoder import text_decoder_of

        llama = LlamaConfig(num_hidden_layers=1)
        assert text_decoder_of(LlavaConfig(text_config=llama))[0].model_type == "llama"
        assert text_decoder_of(llama) == (llama, {})
        ```
    """
    decoder = config.get_text_config(decoder=True)
    if decoder is config or has_trained_head(config) or getattr(config, "is_encoder_decoder", False):
        return config, {}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(decoder, name, None) is None:
            setattr(decoder, name, getattr(config, name, None))
    return decoder, {"key_mapping": _WEIGHTS}


def under_own_names(model: Any) -> Any:
    """The same model, which is saved under its own names.

    transformers saves the weights of a model under the names by which it found them, which here are those of the
    multimodal checkpoint.

    Args:
        model: A model that was loaded with a `key_mapping`.

    Returns:
        A model that shares all weights with the one that was given.
    """
    own = type(model).from_pretrained(
        None, config=model.config, state_dict=model.state_dict(), dtype=model.dtype, device_map=model.device
    )
    own.name_or_path = own.config.name_or_path = model.name_or_path
    return own
