"""Reward models from a folder or from the hub, whole or as adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import find_adapter_config_file

__all__ = ["load_reward_model"]


def load_reward_model(name: str, revision: str | None = None, **kwargs: Any) -> Any:
    """Loads a reward model, whole or as an adapter (LoRA) on the model that it was trained from.

    Args:
        name: A folder, or a name on the hub.
        revision: Which branch, tag or commit of the hub's repository.
        kwargs: For `from_pretrained`: `dtype` and so on. `trust_remote_code` is off unless it is given.

    Returns:
        A sequence classifier with one label, or a `PeftModel` of one.

    Raises:
        TypeError: If `name` is no text or path.
        OSError: If there is no such model.

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
        return AutoModelForSequenceClassification.from_pretrained(name, **where, **kwargs)
    from peft import PeftModel

    base = json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"]
    # The base is a language model, which does not know of one label and perhaps of fewer layers; `rgtg-hf train` saves
    # the configuration that does. Other adapters are of their base's depth.
    trust = {"trust_remote_code": kwargs.get("trust_remote_code", False)}
    if (Path(adapter).parent / "config.json").is_file():
        config = AutoConfig.from_pretrained(name, num_labels=1, **where, **trust)
    else:
        config = AutoConfig.from_pretrained(base, num_labels=1, **trust)
    model = AutoModelForSequenceClassification.from_pretrained(base, config=config, **kwargs)
    return PeftModel.from_pretrained(model, name, **where)
