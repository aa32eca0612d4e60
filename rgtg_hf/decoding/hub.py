"""What a reward model on the hub carries, so that a policy is steered with it by its name alone.

    policy.generate(**inputs, custom_generate="owner/reward-model", trust_remote_code=True, beta=1.5)

`custom_generate="repository or directory"` makes transformers run `custom_generate/generate.py` of that place. Ours
is a few lines that anybody can read before trusting them: they call this package, which must be installed. The
checkpoint stays an ordinary sequence classifier.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedModel

from rgtg_hf.decoding.generation import guidance
from rgtg_hf.decoding.guidance import RewardGuidanceConfig
from rgtg_hf.rewards.load import load_reward_model, load_tokenizer
from rgtg_hf.version import __version__

__all__ = ["add_to_card", "generate_by_name", "write_custom_generate"]

TAG = "custom_generate"

_GENERATE = '''\
"""Steers generate() with the reward model of this repository, by its guidance_config.json.

    policy.generate(**inputs, custom_generate="<this repository>", trust_remote_code=True, beta=1.5)

All that it does is in the package rgtg-hf. Nothing else is downloaded or run.
"""

from rgtg_hf.decoding.hub import generate_by_name


def generate(model, **arguments):
    return generate_by_name(model, **arguments)
'''

_CARD_SECTION = """\
## Steer by name

With `pip install rgtg-hf`, this repository steers a policy by its name, with the settings of `guidance_config.json`.
`trust_remote_code=True` lets transformers run the few lines of `custom_generate/generate.py`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

policy = AutoModelForCausalLM.from_pretrained("{policy}")
tokenizer = AutoTokenizer.from_pretrained("{policy}")
inputs = tokenizer("How are you today?", return_tensors="pt")
output = policy.generate(
    **inputs, custom_generate="{model_id}", trust_remote_code=True, beta={beta}, max_new_tokens=64
)
print(tokenizer.decode(output[0], skip_special_tokens=True))
```

"""

# Reward models that were loaded for a policy; they live as long as it does.
_loaded: WeakKeyDictionary[PreTrainedModel, dict[tuple[str, str | None], PreTrainedModel]] = WeakKeyDictionary()


def write_custom_generate(directory: str | Path, guidance_config: RewardGuidanceConfig | None = None) -> None:
    """Puts beside a saved reward model what `custom_generate=` needs.

    Args:
        directory: The saved reward model. Upload it afterwards by `rgtg-hf push`, or as any other folder.
        guidance_config: The settings to recommend. Where there is none, those in the directory stay, and where there
            are none either, the defaults are written.

    Raises:
        FileNotFoundError: If the directory holds no saved model.

    Example:
        ```python
        from transformers import LlamaConfig, LlamaForSequenceClassification
        from rgtg_hf import RewardGuidanceConfig
        from rgtg_hf.decoding.hub import write_custom_generate

        config = LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                             num_attention_heads=2, num_labels=1)
        LlamaForSequenceClassification(config).save_pretrained("my-reward-model")
        write_custom_generate("my-reward-model", RewardGuidanceConfig(beta=1.5))
        ```
    """
    directory = Path(directory)
    if not any((directory / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise FileNotFoundError(f"{directory} has no config.json: save the reward model there first.")
    if guidance_config is None:
        try:
            guidance_config = RewardGuidanceConfig.from_pretrained(directory)
        except FileNotFoundError:
            guidance_config = RewardGuidanceConfig()
    guidance_config.save_pretrained(directory)
    folder = directory / "custom_generate"
    folder.mkdir(exist_ok=True)
    (folder / "generate.py").write_text(_GENERATE, encoding="utf-8")
    # Read by transformers, which names what is missing before it runs anything, and knows plain versions only.
    released = __version__.replace(".", "").isdigit()
    requirement = f"rgtg-hf>={__version__}" if released else "rgtg-hf"
    (folder / "requirements.txt").write_text(requirement + "\n", encoding="utf-8")


def add_to_card(card: str, model_id: str, policy: str, beta: float) -> str:
    """Adds to the text of a model card how to steer by name.

    Args:
        card: The card's text without its YAML head.
        model_id: The reward model's name on the hub.
        policy: The name of a policy to show it with.
        beta: The strength to show.

    Returns:
        The card with the section, before "Evaluation" where there is one; a section that it had is replaced.
    """
    section = _CARD_SECTION.format(model_id=model_id, policy=policy, beta=beta)
    title = section.splitlines()[0]
    if title in card:
        before, _, rest = card.partition(title)
        _, mark, after = rest.partition("\n## ")
        card = before + (mark.lstrip("\n") + after if mark else "")
    before, mark, after = card.partition("## Evaluation")
    return f"{before.rstrip()}\n\n{section}{mark}{after}" if mark else f"{card.rstrip()}\n\n{section}"


def generate_by_name(
    model: PreTrainedModel,
    reward_model: PreTrainedModel | str | None = None,
    revision: str | None = None,
    **arguments: Any,
) -> Any:
    """What `custom_generate/generate.py` calls: an ordinary `generate()`, steered by the repository's reward model.

    Args:
        model: The policy.
        reward_model: The reward model, or its directory or name. Defaults to what `custom_generate=` names.
        revision: Which branch, tag or commit of the hub's repository.
        arguments: Everything else that `generate()` was given. Besides its own arguments those of guidance: `beta`,
            `top_k` (the candidates), `reward_prompts` and `guidance_config`. They default to the repository's
            `guidance_config.json`. With `tokenizer`, the policy's, a reward model with another one serves too.

    Returns:
        What `generate()` returns.

    Raises:
        ValueError: If the reward model cannot be found or cannot steer this policy.
    """
    name = reward_model if isinstance(reward_model, str) else None
    if reward_model is None:
        name = _name_given_to_generate()
    if name is not None:
        reward_model = _load(model, name, revision)
        if "guidance_config" not in arguments:
            arguments["guidance_config"] = RewardGuidanceConfig.from_pretrained(name, revision)
        if "tokenizer" in arguments:
            arguments.setdefault("reward_tokenizer", load_tokenizer(name, revision=revision or "main"))
    inputs, config = arguments.pop("inputs", None), arguments.pop("generation_config", None)
    processors = arguments.pop("logits_processor", None)
    with guidance(model, reward_model, inputs, config, processors, arguments) as steered:
        return model.generate(inputs, config, steered, **arguments)  # type: ignore[operator]


def _name_given_to_generate() -> str:
    """The value of `custom_generate=` in the call of `generate()` that is under way.

    transformers does not hand it on. A name written into the repository would be wrong as soon as it is copied, moved
    or renamed, so the argument is read where it stands: in the frame of the calling `generate()`.
    """
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_locals.get("custom_generate")
        if frame.f_code.co_name == "generate" and isinstance(name, str):
            return name
        frame = frame.f_back  # type: ignore[assignment]
    raise ValueError("Which reward model is meant cannot be told: pass `reward_model=` with its directory or name.")


def _load(policy: PreTrainedModel, name: str, revision: str | None) -> PreTrainedModel:
    """The reward model, loaded once per policy, on the policy's device and in its own precision."""
    models = _loaded.setdefault(policy, {})
    key = (name, revision)
    if key not in models:
        models[key] = load_reward_model(name, revision, dtype="auto")
    return models[key].to(policy.device)  # type: ignore[arg-type]
