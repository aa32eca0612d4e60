"""The files beside a reward model on the hub by which a policy is steered with it by its name.

    policy.generate(**inputs, custom_generate="owner/reward-model", trust_remote_code=True, beta=1.5)

`custom_generate="owner/reward-model"` makes transformers run `custom_generate/generate.py` of that repository. Ours
is a few lines that anybody can read before trusting them: they call this package, which must be installed. The
checkpoint stays an ordinary sequence classifier.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from rgtg_hf.config import DEFAULTS, GUIDANCE_CONFIG_NAME, RewardGuidanceConfig, RewardModelSource
from rgtg_hf.decoding.generation import generate_guided
from rgtg_hf.version import __version__

__all__ = ["add_to_card", "generate_by_name", "write_custom_generate"]

TAG = "custom_generate"

_GENERATE = '''\
"""Steers generate() with the reward model of this repository, by its guidance_config.json.

    policy.generate(**inputs, custom_generate="{repository}", trust_remote_code=True, beta=1.5)

The package rgtg-hf does all of it. Nothing else is downloaded or run. For a copy of these files in another place, pass
its directory or name as `reward_model=` too.
"""

from rgtg_hf.decoding.hub import generate_by_name

REWARD_MODEL = {name!r}


def generate(model, reward_model=REWARD_MODEL, **arguments):
    return generate_by_name(model, reward_model, **arguments)
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


def write_custom_generate(
    directory: str | Path, guidance_config: RewardGuidanceConfig | None = None, repository: str | None = None
) -> None:
    """Writes the files that `custom_generate=` needs beside a saved reward model.

    Args:
        directory: The saved reward model. Upload it afterwards by `rgtg-hf push`, or as any other folder.
        guidance_config: The settings to recommend, written to `guidance_config.json`. Without it, a file that is in
            the directory stays as it is, and the default `beta` and `top_k` are written if there is none.
        repository: The name that the reward model will have on the hub. Without it, as for a directory that stays
            local, users pass `reward_model="my-reward-model"` beside `custom_generate="my-reward-model"`.

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
        write_custom_generate("my-reward-model", RewardGuidanceConfig(beta=1.5), "owner/my-reward-model")
        ```
    """
    directory = Path(directory)
    if not any((directory / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise FileNotFoundError(f"{directory} has no config.json: save the reward model there first.")
    if guidance_config is None and not (directory / GUIDANCE_CONFIG_NAME).exists():
        guidance_config = RewardGuidanceConfig(beta=DEFAULTS["beta"], top_k=DEFAULTS["top_k"])
    if guidance_config is not None:
        guidance_config.save_pretrained(directory)
    folder = directory / "custom_generate"
    folder.mkdir(exist_ok=True)
    code = _GENERATE.format(repository=repository or "my-reward-model", name=repository)
    (folder / "generate.py").write_text(code, encoding="utf-8")
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
    reward_model: PreTrainedModel | RewardModelSource | str | None = None,
    revision: str | None = None,
    **arguments: Any,
) -> Any:
    """An ordinary `generate()`, steered by a reward model that is named; `custom_generate/generate.py` calls it.

    The reward model is loaded once per policy, onto the policy's device and in its own precision, with its tokenizer.

    Args:
        model: The policy.
        reward_model: The reward model, or its directory or name. The file `custom_generate/generate.py` passes the
            name of its repository.
        revision: A branch, tag or commit of the hub's repository.
        arguments: All other arguments of `generate()`, and those of guidance, as for
            [`RewardGuidedGenerationMixin`][rgtg_hf.decoding.generation.RewardGuidedGenerationMixin]. Settings default
            to the repository's `guidance_config.json`. A reward model with another tokenizer than the policy's is
            read through text: `tokenizer`, the policy's, is needed for that, unless the policy's own is found where
            the policy was loaded from.

    Returns:
        The output of `generate()`.

    Raises:
        ValueError: If the reward model cannot be found or cannot steer this policy.
    """
    if reward_model is None:
        raise ValueError(
            "These files do not know the name of their reward model: pass `reward_model=` with its directory or name."
        )
    if isinstance(reward_model, (str, Path)):
        reward_model = RewardModelSource(str(reward_model), revision)
    inputs, config = arguments.pop("inputs", None), arguments.pop("generation_config", None)
    processors = arguments.pop("logits_processor", None)
    return generate_guided(model.generate, model, reward_model, inputs, config, processors, **arguments)  # type: ignore[arg-type]
