"""The model card of a prefix reward model: its kind, how to steer with it, its training data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

__all__ = ["GUIDANCE", "data_name", "kind_of", "model_card"]

CITATION = """@inproceedings{rashid2025critical,
  title     = {A Critical Look At Tokenwise Reward-Guided Text Generation},
  author    = {Rashid, Ahmad and Wu, Ruotian and Grosse, Julia and Kristiadi, Agustinus and Poupart, Pascal},
  booktitle = {Conference on Language Modeling},
  year      = {2025},
  url       = {https://arxiv.org/abs/2406.07780}
}"""

TEMPLATE = """---
{card_data}
---

# {name}

{what} It was trained{base}{data} {how}

## Steer a language model

`pip install rgtg-hf`

```python
{imports}

{policy_comment}policy = AutoModelForCausalLM.from_pretrained("{policy}")
tokenizer = AutoTokenizer.from_pretrained("{policy}")
{load}

inputs = tokenizer("How are you today?", return_tensors="pt")
{steer}
print(tokenizer.decode(output[0], skip_special_tokens=True))
```

{hint}

## Evaluation

{evaluation}

## Training

{training}

## Citation

```bibtex
{citation}
```
"""

_CLASSIFIER = {
    "what": (
        "A prefix reward model: it scores every beginning of a response, not only whole ones, so it can steer a "
        "language model\ntoken by token while it generates."
    ),
    "how": (
        "with a Bradley-Terry loss on all prefixes of preferred and rejected responses\n"
        "([Rashid et al., 2025](https://arxiv.org/abs/2406.07780))."
    ),
    "imports": (
        "from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer\n\n"
        "from rgtg_hf import RewardGuidedLogitsProcessor"
    ),
    "policy_comment": "# Any causal language model with this model's tokenizer.\n",
    "load": ('reward_model = AutoModelForSequenceClassification.from_pretrained("{model_id}", num_labels=1)'),
    "steer": (
        "steer = RewardGuidedLogitsProcessor(reward_model, beta={beta}, top_k={top_k})\n"
        "output = policy.generate(**inputs, logits_processor=[steer], max_new_tokens=64)"
    ),
    "hint": (
        "A larger `beta` steers harder. The reward of each prefix of a text is "
        "`rgtg_hf.prefix_rewards(reward_model, ids)`."
    ),
}
_ADAPTER = _CLASSIFIER | {
    "imports": (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "from rgtg_hf import RewardGuidedLogitsProcessor\n"
        "from rgtg_hf.rewards.load import load_reward_model"
    ),
    "load": 'reward_model = load_reward_model("{model_id}")',
    "hint": (
        f"{_CLASSIFIER['hint']}\n\n"
        "The weights here are an adapter. `base_config` describes the model that it belongs on, which may have fewer "
        "layers than\nthe base model. To load it without rgtg-hf, read that configuration by "
        '`AutoConfig.from_pretrained` with\n`subfolder="base_config"`, give it as `config` to '
        "`AutoModelForSequenceClassification.from_pretrained` of the base\nmodel, and add the adapter by "
        "`PeftModel.from_pretrained`."
    ),
}
_WITH_CODE = _ADAPTER | {
    "hint": (
        f"{_CLASSIFIER['hint']}\n\n"
        "transformers has no sequence classifier for this architecture. To load the model without rgtg-hf, read\n"
        "`modeling_reward.py` and pass `trust_remote_code=True` to\n"
        "`AutoModelForSequenceClassification.from_pretrained`."
    ),
}
_VALUE_MODEL = _ADAPTER | {
    "what": (
        "A prefix value model: at every beginning of a response it gives the distribution of the reward that the "
        "whole\nresponse will get, so it can steer a language model token by token while it generates."
    ),
    "how": (
        "on rated responses of a language model, by the cross-entropy of a histogram of\nreturns at every prefix of "
        "each response."
    ),
    "hint": (
        "A larger `beta` steers harder. The labels are the bins of a histogram, whose first and last return are "
        "`value_range` in the\nconfiguration. `value_beta` says which soft value steers; 0 is the mean. "
        "`rgtg_hf.prefix_rewards(reward_model, ids)` gives the\nmean return after each prefix of a text."
    ),
}
_NEXT_TOKEN = _CLASSIFIER | {
    "what": (
        "A next-token reward model: it reads the beginning of a response and rates every next token at once, so it "
        "steers\na language model with one forward pass of its own per step."
    ),
    "imports": (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "from rgtg_hf import NextTokenRewardModel, RewardGuidedLogitsProcessor"
    ),
    "load": 'reward_model = NextTokenRewardModel.from_pretrained("{model_id}")',
}
_STEERING_HEAD = {
    "how": _CLASSIFIER["how"],
    "what": (
        "A steering head: it reads the hidden states that one language model, `{policy}`, computes anyway, and steers "
        "it\nat no cost. It works on that model alone."
    ),
    "imports": (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "from rgtg_hf import NextTokenRewardModel, steering"
    ),
    "policy_comment": "# The language model that the head was trained on; its config.json says which.\n",
    "load": 'head = NextTokenRewardModel.from_pretrained("{model_id}")',
    "steer": (
        "with steering(policy, [(head, {beta})], top_k={top_k}) as steer:\n"
        "    output = policy.generate(**inputs, logits_processor=[steer], max_new_tokens=64)"
    ),
    "hint": (
        "A larger beta ({beta} here) steers harder. Several heads add up: "
        "`steering(policy, [(one, {beta}), (two, -1.0)])`."
    ),
}
_ADVANTAGE_HEAD = _STEERING_HEAD | {
    "how": (
        "on rated responses of that model, by least squares of the sum of its tokens'\nadvantages "
        "([Pan et al., 2022](https://arxiv.org/abs/2109.06093))."
    ),
}
_WORDS = {
    "classifier": _CLASSIFIER,
    "adapter": _ADAPTER,
    "classifier with code": _WITH_CODE,
    "value model": _VALUE_MODEL,
    "next token": _NEXT_TOKEN,
    "steering head": _STEERING_HEAD,
    "advantage head": _ADVANTAGE_HEAD,
}
# The metrics of an evaluation that are shown, by a part of their name.
_SHOWN = ("accuracy", "margin", "loss", "squared_error", "explained", "gain")
# The settings that each kind's guidance_config.json gets, and its card shows. RewardGuidanceConfig, which reads the
# file, belongs to decoding. The beta of a value model is per standard deviation of rewards.
_STRONG = ("value model", "steering head", "advantage head")
GUIDANCE: dict[str, dict[str, Any]] = {kind: {"beta": 3.0 if kind in _STRONG else 1.0, "top_k": 10} for kind in _WORDS}


def kind_of(config: dict[str, Any], *, is_adapter: bool = False) -> str:
    """The kind of a reward model.

    Args:
        config: Its configuration, as a dictionary.
        is_adapter: Whether its weights are an adapter (LoRA).

    Returns:
        `"classifier"`, `"classifier with code"` (its class comes with the checkpoint), `"adapter"`, `"value model"`,
        `"next token"`, `"steering head"` or `"advantage head"` (one that learned from rated responses).
    """
    if config.get("value_range") is not None:
        return "value model"
    if is_adapter:
        return "adapter"
    if config.get("model_type") != "next_token_reward":
        return "classifier with code" if config.get("auto_map") else "classifier"
    if config.get("policy") is None:
        return "next token"
    return "steering head" if config.get("reward_unit") is None else "advantage head"


def data_name(dataset: Any) -> str | None:
    """Returns the hub name of a data set, if it was loaded from the hub."""
    checksums = getattr(getattr(dataset, "info", None), "download_checksums", None) or {}
    for url in checksums:
        if url.startswith("hf://datasets/"):
            return "/".join(url.removeprefix("hf://datasets/").split("@")[0].split("/")[:2])
    return None


def model_card(
    *,
    name: str,
    model_id: str,
    base_model: str | None,
    dataset_name: str | None,
    tags: Sequence[str],
    metrics: dict[str, float],
    settings: dict[str, Any],
    kind: str = "classifier",
    guidance: dict[str, Any] | None = None,
) -> ModelCard:
    """Writes the card.

    Args:
        name: The model's name, for the heading.
        model_id: Its name on the hub, for the code example.
        base_model: The model that it was made from. The name of a local directory is left out.
        dataset_name: The training data. Only the last part of a local path is shown.
        tags: Tags for the hub.
        metrics: The metrics of the last evaluation, with names such as `eval_accuracy`; may be empty.
        settings: Training settings worth knowing.
        kind: The kind of reward model, see [`kind_of`].
        guidance: `beta` and `top_k` of its `guidance_config.json`. Defaults to those that its kind gets.

    Returns:
        The card, ready to be saved as README.md.
    """
    if not base_model or os.path.isdir(base_model):
        base_model = None
    on_hub = dataset_name is not None and not os.path.exists(dataset_name)
    if dataset_name is not None and not on_hub:
        dataset_name = os.path.basename(os.path.normpath(dataset_name))
    data = ModelCardData(
        base_model=base_model,
        datasets=[dataset_name] if dataset_name and on_hub else None,
        library_name="transformers",
        model_name=name,
        tags=sorted(set(tags)),
    )
    names = {"model_id": model_id, "policy": base_model or "your/language-model", **(guidance or GUIDANCE[kind])}
    words = {place: text.format(**names) for place, text in _WORDS[kind].items()}
    if base_model:
        words["policy_comment"] = ""
    content = TEMPLATE.format(
        **words,
        card_data=data.to_yaml(),
        name=name,
        base=f" from [{base_model}](https://huggingface.co/{base_model})" if base_model else "",
        data=f" on {dataset_name}" if dataset_name else "",
        policy=names["policy"],
        evaluation=_evaluation(metrics),
        training="\n".join(
            f"- {key}: {value}" for key, value in (settings | _versions()).items() if value is not None
        ),
        citation=CITATION,
    )
    return ModelCard(content)


def _evaluation(metrics: dict[str, float]) -> str:
    rows = [
        f"| {name.removeprefix('eval_').replace('_', ' ')} | {value:.4g} |"
        for name, value in metrics.items()
        if any(word in name for word in _SHOWN)
    ]
    if not rows:
        return "The model was not evaluated when this card was written."
    at = "`at 25` means after a quarter of each response was read."
    line, data = f"Accuracy is the share of pairs ranked right; {at}", "pairs"
    if any("squared_error" in name for name in metrics):
        line, data = f"The squared error is that of the mean return; {at}", "responses"
    elif any("explained" in name for name in metrics):
        line, data = (
            "Explained is the share of the variance of rewards; the gain at 1 nat is an estimate of the reward that "
            "steering\nadds at one nat of divergence per response, to first order.",
            "responses",
        )
    return "\n".join([line, "", f"| on held-out {data} | |", "| --- | --- |", *rows])


def _versions() -> dict[str, str]:
    return {f"{package} version": version(package) for package in ("torch", "transformers", "trl")}
