"""Reward models that are given by their names: loaded safely, with their tokenizers, once per policy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from rgtg_hf.config import RewardModelSource
from rgtg_hf.rewards.load import load_reward_model, load_tokenizer

__all__ = ["LoadedRewards", "NamedRewardModel", "is_name", "load_for_policy", "load_named", "load_names"]

logger = logging.getLogger(__name__)


class NamedRewardModel(NamedTuple):
    """A reward model that was loaded by its name.

    Attributes:
        model: The model, on its device.
        tokenizer: Its tokenizer; `None` where there is none, as beside a steering head.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase | None


class LoadedRewards(NamedTuple):
    """The reward models of a call, with the tokenizers that tell whether they read the policy's ids.

    Attributes:
        reward_model: As it was given, with models in place of names.
        tokenizer: The policy's tokenizer, or `None`.
        reward_tokenizer: The reward model's, or a list of them, or `None`.
    """

    reward_model: Any
    tokenizer: Any
    reward_tokenizer: Any


# What was loaded for a policy lives as long as the policy does.
_loaded: WeakKeyDictionary[PreTrainedModel, dict[RewardModelSource, NamedRewardModel]] = WeakKeyDictionary()
_other_ids: WeakKeyDictionary[PreTrainedModel, dict[RewardModelSource, bool]] = WeakKeyDictionary()
_policy_tokenizers: WeakKeyDictionary[PreTrainedModel, PreTrainedTokenizerBase | None] = WeakKeyDictionary()


def is_name(reward_model: Any) -> bool:
    """Whether this is a folder or a hub name in place of a model."""
    return isinstance(reward_model, (str, Path, RewardModelSource))


def load_named(name: str | Path | RewardModelSource, device: torch.device | str | None = None) -> NamedRewardModel:
    """Loads a reward model and its tokenizer: safetensors alone, and no code of its own.

    Args:
        name: A folder or a name on the hub, or a `RewardModelSource` with a revision.
        device: Where it goes. Defaults to the GPU if there is one.

    Raises:
        OSError: If there is no such model, or it has no weights as safetensors.
        ValueError: If its files are damaged or incomplete, or need code of their own.

    Example:
        ```python
        from rgtg_hf.rewards.named import load_named

        reward_model, tokenizer = load_named("my-reward-model")
        ```
    """
    source = name if isinstance(name, RewardModelSource) else RewardModelSource(str(name))
    model = load_reward_model(source.name, source.revision, dtype="auto")
    tokenizer = _tokenizer(source.name, revision=source.revision or "main")
    return NamedRewardModel(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), tokenizer)


def load_names(
    reward_model: Any,
    tokenizer: Any = None,
    reward_tokenizer: Any = None,
    load: Callable[[Any], NamedRewardModel] = load_named,
) -> LoadedRewards:
    """Puts models in place of names. What is a model already stays as it is.

    Args:
        reward_model: A reward model or a name, or a list of such.
        tokenizer: The policy's tokenizer. With it, the loaded tokenizers are taken for `reward_tokenizer`, so that a
            reward model that reads other ids goes through text.
        reward_tokenizer: The reward model's tokenizer. If given, it is used in place of the loaded one.
        load: Loads one name.

    Returns:
        The models and their tokenizers.
    """
    several = isinstance(reward_model, (list, tuple)) and not is_name(reward_model)
    models = list(reward_model) if several else [reward_model]
    if not any(map(is_name, models)):
        return LoadedRewards(reward_model, tokenizer, reward_tokenizer)
    named = [load(one) if is_name(one) else NamedRewardModel(one, None) for one in models]
    own = [one.tokenizer for one in named]
    if tokenizer is not None and reward_tokenizer is None and any(own):
        reward_tokenizer = own if several else own[0]
    loaded = [one.model for one in named]
    return LoadedRewards(loaded if several else loaded[0], tokenizer, reward_tokenizer)


def load_for_policy(
    policy: PreTrainedModel, reward_model: Any, tokenizer: Any = None, reward_tokenizer: Any = None
) -> LoadedRewards:
    """Does the same for a policy: each name is loaded once, onto the policy's device.

    If `tokenizer` is not given, that of the policy is looked for where the policy was loaded from, on this machine.
    Where it shows that the reward model reads other ids, the rewards go through text, and a warning is logged.
    """
    names: list[RewardModelSource] = []

    def load(name: Any) -> NamedRewardModel:
        source = name if isinstance(name, RewardModelSource) else RewardModelSource(str(name))
        held = _loaded.setdefault(policy, {})
        if source not in held:
            held[source] = load_named(source, policy.device)
        names.append(source)
        return held[source]._replace(model=held[source].model.to(policy.device))

    loaded = load_names(reward_model, tokenizer, reward_tokenizer, load)
    if tokenizer is not None or reward_tokenizer is not None:
        return loaded
    if not any(_reads_other_ids(policy, name) for name in names):
        return loaded
    logger.warning(
        "The reward model %s has another tokenizer than the policy, so its rewards go through text, which is slower.",
        reward_model,
    )
    return load_names(reward_model, _tokenizer_of(policy), None, load)


def _reads_other_ids(policy: PreTrainedModel, name: RewardModelSource) -> bool:
    """Whether the tokenizers of a policy and of a reward model that was loaded for it differ, if both are known."""
    known = _other_ids.setdefault(policy, {})
    if name not in known:  # comparing large vocabularies takes time
        own, found = _loaded[policy][name].tokenizer, _tokenizer_of(policy)
        known[name] = own is not None and found is not None and own.get_vocab() != found.get_vocab()
    return known[name]


def _tokenizer_of(policy: PreTrainedModel) -> PreTrainedTokenizerBase | None:
    """The policy's tokenizer, if it lies where the policy was loaded from, on this machine."""
    if policy not in _policy_tokenizers:
        _policy_tokenizers[policy] = None
        with suppress(ValueError):
            if name := policy.name_or_path:
                _policy_tokenizers[policy] = _tokenizer(name, local_files_only=True)
    return _policy_tokenizers[policy]


def _tokenizer(name: str, **where: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside a model; `None` where there is none, as beside a steering head."""
    try:
        cached_file(name, "tokenizer_config.json", **where)  # from_pretrained makes an empty tokenizer from nothing
    except OSError:
        return None
    return load_tokenizer(name, **where)
