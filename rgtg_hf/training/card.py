"""The model card of a prefix reward model: what it is, how to steer with it, what it was trained on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

__all__ = ["CLASSIFIER", "NEXT_TOKEN", "STEERING_HEAD", "data_name", "model_card"]

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

{what} It was trained{base}{data} with a Bradley-Terry loss on all prefixes of preferred and rejected responses
([Rashid et al., 2025](https://arxiv.org/abs/2406.07780)).

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

CLASSIFIER = {
    "what": (
        "A prefix reward model: it scores every beginning of a response, not only whole ones, so it can steer a "
        "language model\ntoken by token while it generates."
    ),
    "imports": (
        "from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer\n\n"
        "from rgtg_hf import RewardGuidedLogitsProcessor"
    ),
    "load": ('reward_model = AutoModelForSequenceClassification.from_pretrained("{model_id}", num_labels=1)'),
    "steer": (
        "steer = RewardGuidedLogitsProcessor(reward_model, beta=1.0, top_k=10)\n"
        "output = policy.generate(**inputs, logits_processor=[steer], max_new_tokens=64)"
    ),
    "hint": (
        "A larger `beta` steers harder. The reward of each prefix of a text is "
        "`rgtg_hf.prefix_rewards(reward_model, ids)`."
    ),
}
NEXT_TOKEN = CLASSIFIER | {
    "what": (
        "A next-token reward model: having read the beginning of a response, it rates every next token at once, so "
        "it steers\na language model for one token of its own per step."
    ),
    "imports": (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "from rgtg_hf import NextTokenRewardModel, RewardGuidedLogitsProcessor"
    ),
    "load": 'reward_model = NextTokenRewardModel.from_pretrained("{model_id}")',
}
STEERING_HEAD = {
    "what": (
        "A steering head: it reads the hidden states that one language model, `{policy}`, computes anyway, and steers "
        "it\nat no cost. It works on that model alone."
    ),
    "imports": (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        "from rgtg_hf import NextTokenRewardModel, steering"
    ),
    "load": 'head = NextTokenRewardModel.from_pretrained("{model_id}")',
    "steer": (
        "with steering(policy, [(head, 3.0)], top_k=10) as steer:\n"
        "    output = policy.generate(**inputs, logits_processor=[steer], max_new_tokens=64)"
    ),
    "hint": (
        "A larger beta (3.0 here) steers harder. Several heads add up: `steering(policy, [(one, 3.0), (two, -1.0)])`."
    ),
}


def data_name(dataset: Any) -> str | None:
    """The hub name of a data set, if it was loaded from the hub."""
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
    words: dict[str, str] = CLASSIFIER,
) -> ModelCard:
    """Writes the card.

    Args:
        name: The model's name, for the heading.
        model_id: Its name on the hub, for the code example.
        base_model: The model it was made from. A local directory is not named.
        dataset_name: What it was trained on. Of a local path only the last part is named.
        tags: Tags for the hub.
        metrics: The metrics of the last evaluation, `eval_` and so on in front of their names; may be empty.
        settings: Training settings worth knowing.
        words: What to say of this kind of reward model: `CLASSIFIER`, `NEXT_TOKEN` or `STEERING_HEAD`.

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
    names = {"model_id": model_id, "policy": base_model or "your/language-model"}
    content = TEMPLATE.format(
        **{place: text.format(**names) for place, text in words.items()},
        card_data=data.to_yaml(),
        name=name,
        base=f" from [{base_model}](https://huggingface.co/{base_model})" if base_model else "",
        data=f" on {dataset_name}" if dataset_name else "",
        policy=names["policy"],
        policy_comment="" if base_model else f"# {_policy_in_words(words)}.\n",
        evaluation=_evaluation(metrics),
        training="\n".join(f"- {key}: {value}" for key, value in (settings | _versions()).items()),
        citation=CITATION,
    )
    return ModelCard(content)


def _policy_in_words(words: dict[str, str]) -> str:
    if words is STEERING_HEAD:
        return "The language model that the head was trained on; its config.json says which"
    return "Any causal language model with this model's tokenizer"


def _evaluation(metrics: dict[str, float]) -> str:
    rows = [
        f"| {name.removeprefix('eval_').replace('_', ' ')} | {value:.4g} |"
        for name, value in metrics.items()
        if any(word in name for word in ("accuracy", "margin", "loss"))
    ]
    if not rows:
        return "The model was not evaluated when this card was written."
    lines = ["Accuracy is the share of pairs ranked right; `at 25` means after a quarter of each response was read."]
    return "\n".join([*lines, "", "| on held-out pairs | |", "| --- | --- |", *rows])


def _versions() -> dict[str, str]:
    return {f"{package} version": version(package) for package in ("torch", "transformers", "trl")}
