"""Every setting of guidance, with its meaning, its check and its default; and where its value comes from.

A setting that is `None` is unset. It is resolved in one place, [`resolve_guidance`][rgtg_hf.config.resolve_guidance]:

    argument  >  config object  >  GenerationConfig  >  guidance_config.json beside the reward model  >  default

To add a setting, declare it here and say what it does in [`guide_step`][rgtg_hf.decoding.step.guide_step]. The
processor, the mixin, `custom_generate`, `steering`, the command line and the server take it from here.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from rgtg_hf.arguments import check_count, check_number, near_names, own_number, shown
from rgtg_hf.files import write_whole

__all__ = [
    "CHOICES",
    "DEFAULTS",
    "GUIDANCE_CONFIG_NAME",
    "OF_CALLS",
    "OF_SAMPLING",
    "SCORER_NAMES",
    "SEARCHES",
    "ResolvedGuidance",
    "RewardGuidanceConfig",
    "RewardModelSource",
    "resolve_guidance",
]

GUIDANCE_CONFIG_NAME = "guidance_config.json"
SEARCHES = ("tokens", "best", "resample", "halve", "none")
SCORER_NAMES = ("auto", "siblings", "hybrid", "expand", "next_token", "reference")

SEARCH_RETURNS = ("auto", "best", "draw")
CHOICES = {"scorer": SCORER_NAMES, "search": SEARCHES, "search_return": SEARCH_RETURNS}
# In `generate()` and a `GenerationConfig`, these are settings of sampling.
OF_SAMPLING = ("top_k", "top_p", "min_p")
_WHOLE_VOCABULARY = 2**31 - 1  # more tokens than any has

Check = Callable[[str, Any], None]  # takes a setting's name and value, and refuses what it cannot be

logger = logging.getLogger(__name__)


class RewardModelSource(NamedTuple):
    """Where a reward model was loaded from: a folder or a name on the hub, and the branch, tag or commit."""

    name: str
    revision: str | None = None


def _check_choice(name: str, value: Any) -> None:
    choices = list(CHOICES[name])
    if not isinstance(value, str):
        raise TypeError(f"`{name}` is {shown(value)}, but one of {choices} is required.")
    if value not in choices:
        raise ValueError(f"`{name}` is {shown(value)}, but must be one of {choices}.")


def _check_count_or_zero(zero_means: str) -> Check:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"`{name}` is {shown(value)}, but an integer is required, or 0 for {zero_means}.")
        if value < 0:
            raise ValueError(f"`{name}` is {shown(value)}, but must be at least 1, or 0 for {zero_means}.")

    return check


def _check_limit(name: str, value: Any) -> None:
    if value != math.inf:
        check_number(name, value)
    if value <= 0:
        raise ValueError(f"`{name}` is {value}, but a number of nats above 0 is required.")


def _check_probability(name: str, value: Any) -> None:
    check_number(name, value)
    if not 0 < value <= 1:
        raise ValueError(f"`{name}` is {value}, but a probability above 0 and up to 1 is required.")


def _check_share(name: str, value: Any) -> None:
    check_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` is {value}, but a number from 0 to 1 is required.")


def _check_entropy(name: str, value: Any) -> None:
    check_number(name, value)
    if value < 0:
        raise ValueError(f"`{name}` is {value}, but an entropy is 0 nats or more.")


def _check_value_beta(name: str, value: Any) -> None:
    if isinstance(value, str) and value != "beta":
        raise ValueError(f"`{name}` is {shown(value)}, but a number is required, or 'beta' for the value of `beta`.")
    if value != "beta":
        check_number(name, value)


def _number_or_beta(text: str) -> float | str:
    return text if text == "beta" else float(text)


def _setting(default: Any, check: Check, summary: str, parse: Callable[[str], Any] | None = None) -> Any:
    metadata = {"default": default, "check": check, "summary": summary, "parse": parse or type(default)}
    return field(default=None, metadata=metadata)


@dataclass
class RewardGuidanceConfig:
    """How a reward model steers. Saved beside a reward model as `guidance_config.json`.

    Every setting may be left unset (`None`). Then the value comes from the reward model's `guidance_config.json`, or
    is the default.

    Args:
        beta: Strength of steering, in nats per unit of reward: it multiplies the increments. Defaults to 1. 0 does
            not steer, and negative values steer away from what the reward model prefers.
        top_k: How many of the policy's most likely tokens are candidates at each step. All others are ruled out.
            Defaults to 10. 0 means the whole vocabulary, which is meant for small ones.
        top_p: Among the top k, only the most likely tokens whose probabilities (under the policy, over the whole
            vocabulary) reach `top_p` together are candidates. Defaults to 1, which filters nothing.
        min_p: Among the top k, only tokens at least `min_p` times as likely as the most likely one are candidates.
            Defaults to 0, which filters nothing.
        min_entropy: Guide a row only where the policy's entropy over the candidates, in nats, is at least this. Below
            it the row follows the policy over the same candidates. Defaults to 0, which guides every step. In beam
            search an unguided step adds no reward to the path's score.
        max_increment: The most, in nats, that guidance may add to a candidate's score or take from it. Defaults to
            infinity.
        max_step_kl: The most divergence from the policy, in nats, that a step may have. Where guidance would move a
            row further, it is scaled down for this step and row, as if `beta` were smaller. Defaults to infinity.
        value_beta: Which soft value of a [value model][rgtg_hf.rewards.value_model] steers, per unit of reward: V_b =
            (1 / b) log E exp(b r) with b = `value_beta`. Defaults to 0, the mean return. `"beta"` stands for the value
            of `beta`, with which the exact soft value steers to the RLHF optimum. It makes no difference to other
            reward models.
        search: What is guided. `"tokens"` (the default): every token, as described above. The others write
            `num_rows` responses to each prompt and select among them after every block; see
            [`search`][rgtg_hf.decoding.search]. `"best"`: the row of highest reward goes on. `"resample"`: rows are
            drawn with weights exp(beta · increment of the block). `"halve"`: the lower half stops. `"none"`: the best
            response in the end.
        num_rows: Rows per prompt of a search. Defaults to 4. Each needs its own caches.
        block_size: Tokens per block of a search. Defaults to 8.
        max_rows: The most rows that a search runs at once; a larger batch is split. Defaults to 0, no limit.
        search_return: Which rows a search returns: `"best"`, those of highest reward; `"draw"`, rows drawn by their
            weights, which without resampling are exp(beta · [r(x, y) - r(x)]); `"auto"` (the default), drawn ones for
            `"resample"` and the best ones otherwise.
        soften: For `"resample"`, the share of the rows that has to count in a draw. Where fewer do, rows are drawn
            with weights raised to a power below 1, and what is left of the weights stays with them. Defaults to 0,
            plain draws.
        scorer: `"auto"` (the default) for the fastest scorer that a probe finds right, or one of `"siblings"`,
            `"hybrid"`, `"expand"`, `"next_token"`, `"reference"`. It makes no difference to a steering head.

    Raises:
        ValueError: If a value is out of range.
        TypeError: If a value has another type.

    Example:
        ```python
        from rgtg_hf import RewardGuidanceConfig

        config = RewardGuidanceConfig(beta=1.5, top_k=20)
        config.save_pretrained("my-reward-model")
        assert RewardGuidanceConfig.from_pretrained("my-reward-model") == config
        ```
    """

    beta: float | None = _setting(1.0, check_number, "strength of steering, in nats per unit of reward")
    top_k: int | None = _setting(
        10, _check_count_or_zero("the whole vocabulary"), "most likely tokens that are candidates; 0: all"
    )
    top_p: float | None = _setting(1.0, _check_probability, "candidates have this probability together")
    min_p: float | None = _setting(0.0, _check_share, "candidates have this share of the top probability")
    min_entropy: float | None = _setting(0.0, _check_entropy, "guide where the policy's entropy has this many nats")
    max_increment: float | None = _setting(math.inf, _check_limit, "most nats that a candidate's score may change by")
    max_step_kl: float | None = _setting(math.inf, _check_limit, "most nats of divergence from the policy per step")
    value_beta: float | str | None = _setting(
        0.0, _check_value_beta, "soft value of a value model, or beta", _number_or_beta
    )
    search: str | None = _setting("tokens", _check_choice, "method")
    num_rows: int | None = _setting(4, check_count, "rows per prompt")
    block_size: int | None = _setting(8, check_count, "tokens per block")
    max_rows: int | None = _setting(0, _check_count_or_zero("no limit"), "most rows that run at once; 0: no limit")
    search_return: str | None = _setting("auto", _check_choice, "rows that are returned")
    soften: float | None = _setting(0.0, _check_share, "share of the rows that has to count in a draw")
    scorer: str | None = _setting("auto", _check_choice, "way")

    def __post_init__(self) -> None:
        for one in fields(self):
            value = own_number(getattr(self, one.name))
            if value is not None:
                one.metadata["check"](one.name, value)
                setattr(self, one.name, value)

    @property
    def soft_value_beta(self) -> float:
        """`value_beta` as a number. The settings are resolved."""
        return self.beta if self.value_beta == "beta" else self.value_beta  # type: ignore[return-value]

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes the settings that are set to `guidance_config.json`, into a directory that is made if needed."""
        if not isinstance(save_directory, (str, Path)):
            raise TypeError(f"`save_directory` is {save_directory!r}, but the path of a directory is required.")
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        # JSON has no infinity. It is the default of the settings that may be infinite.
        given = {name: value for name, value in asdict(self).items() if value not in (None, math.inf)}
        write_whole(directory / GUIDANCE_CONFIG_NAME, json.dumps(given, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> RewardGuidanceConfig:
        """Reads `guidance_config.json` of a reward model.

        Args:
            name: The reward model's directory, or its name on the hub.
            revision: A branch, tag or commit of the hub's repository.

        Raises:
            TypeError: If `name` is neither a text nor a path.
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not valid JSON or holds unknown or invalid settings.
        """
        if not isinstance(name, (str, Path)):
            raise TypeError(f"`name` is {name!r}, but a directory or a name on the hub is required.")
        path = Path(name) / GUIDANCE_CONFIG_NAME
        try:
            if not path.parent.is_dir():
                path = Path(hf_hub_download(str(name), GUIDANCE_CONFIG_NAME, revision=revision))
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, EntryNotFoundError, HFValidationError):
            raise FileNotFoundError(
                f"No {GUIDANCE_CONFIG_NAME} in {str(name)!r}. Write one with RewardGuidanceConfig(...)."
                "save_pretrained, or pass the settings themselves."
            ) from None
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON ({error}). Write it again with save_pretrained.") from None
        if not isinstance(settings, dict):
            raise ValueError(f"{path} holds a {type(settings).__name__}, but an object of settings is required.")
        if unknown := sorted(set(settings) - set(DEFAULTS)):
            near = near_names(unknown, DEFAULTS)
            raise ValueError(f"{path} has unknown settings {unknown}. {near}The settings are {sorted(DEFAULTS)}.")
        try:
            return cls(**settings)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}") from None

    @staticmethod
    def stacked(configs: Sequence[RewardGuidanceConfig], device: Any = None) -> RewardGuidanceConfig:
        """Settings of several rows together, for [`guide_step`][rgtg_hf.decoding.step.guide_step].

        Args:
            configs: The resolved settings of each row. They share one `scorer`.
            device: Where tensors go.

        Returns:
            A config that holds a number where all rows agree, and a tensor of shape `[rows, 1]` where they differ.
        """
        import torch  # which settings by themselves do without: the command line shows its help at once

        together = copy(configs[0])
        for name in DEFAULTS:
            values = [getattr(config, name) for config in configs]
            if values.count(values[0]) < len(values):
                if name == "top_k":
                    values = [value or _WHOLE_VOCABULARY for value in values]
                setattr(together, name, torch.tensor(values, device=device)[:, None])
        return together


DEFAULTS: dict[str, Any] = {one.name: one.metadata["default"] for one in fields(RewardGuidanceConfig)}
# Settings that a call of `generate()` or a command may give directly. There `top_p` and `min_p` belong to sampling,
# and filter candidates only in a config.
OF_CALLS = tuple(name for name in DEFAULTS if name not in ("top_p", "min_p"))


class ResolvedGuidance(NamedTuple):
    """Settings that are all set.

    Attributes:
        config: The settings.
        sources: Where each of them came from, in words.
    """

    config: RewardGuidanceConfig
    sources: dict[str, str]


def resolve_guidance(
    settings: Mapping[str, Any],
    guidance_config: RewardGuidanceConfig | ResolvedGuidance | None = None,
    source: RewardModelSource | None = None,
    generation_config: Any = None,
) -> ResolvedGuidance:
    """Gives every setting its value. What `beta` is and where it comes from is logged once.

    Args:
        settings: Settings that were given as arguments. `None` means unset.
        guidance_config: The config object that was given, if any. Resolved settings stay as they are, but for the
            arguments: nothing else is looked up.
        source: Where the reward model was loaded from, for its `guidance_config.json`. `None` for nowhere.
        generation_config: A `GenerationConfig` that may hold settings too, but for those that are its own: `top_k`,
            `top_p` and `min_p`.

    Returns:
        The settings, and where each came from.

    Raises:
        TypeError: If a setting is unknown or has another type, or `guidance_config` is not a `RewardGuidanceConfig`.
        ValueError: If a setting is out of range, or the file is damaged.

    Example:
        ```python
        from rgtg_hf import RewardGuidanceConfig
        from rgtg_hf.config import resolve_guidance

        config, sources = resolve_guidance({"beta": 1.0}, RewardGuidanceConfig(beta=3.0, top_k=20))
        assert (config.beta, config.top_k, config.min_p) == (1.0, 20, 0.0)
        assert sources["beta"] == "argument"
        ```
    """
    if not isinstance(guidance_config, (RewardGuidanceConfig, ResolvedGuidance, type(None))):
        raise TypeError(
            f"`guidance_config` is a {type(guidance_config).__name__}, but a RewardGuidanceConfig is required."
        )
    if unknown := sorted(set(settings) - set(DEFAULTS)):
        near = near_names(unknown[:1], DEFAULTS)
        raise TypeError(f"Unknown setting `{unknown[0]}`. {near}The settings of guidance are {sorted(DEFAULTS)}.")
    arguments = vars(RewardGuidanceConfig(**settings))
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    layers: list[tuple[str, dict[str, Any]]] = []
    if isinstance(guidance_config, ResolvedGuidance):
        values, sources = dict(vars(guidance_config.config)), dict(guidance_config.sources)
    else:
        layers = [("default", DEFAULTS), *_found_layers(source, generation_config)]
        if guidance_config is not None:
            layers.append(("guidance_config", vars(guidance_config)))
    for origin, layer in [*layers, ("argument", arguments)]:
        given = {name: value for name, value in layer.items() if value is not None}
        values |= given
        sources |= dict.fromkeys(given, origin)
    resolved = ResolvedGuidance(RewardGuidanceConfig(**values), sources)
    if sources["beta"] != "argument":  # which needs no telling
        _log_beta(resolved.config.beta, sources["beta"])
    return resolved


def _found_layers(source: RewardModelSource | None, generation_config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Settings that were not given with guidance, the weaker ones first, and where they come from."""
    if source is not None and (saved := _saved_guidance(source)) is not None:
        yield f"{GUIDANCE_CONFIG_NAME} of {source.name}", vars(saved)
    names = [name for name in DEFAULTS if name not in OF_SAMPLING]
    if found := {name: value for name in names if (value := getattr(generation_config, name, None)) is not None}:
        yield "GenerationConfig", vars(RewardGuidanceConfig(**found))


@lru_cache(maxsize=256)
def _log_beta(beta: float, origin: str) -> None:
    """Says once which beta is in use; loudly where it stands in a file that the caller may not have looked at."""
    quiet = origin in ("default", "guidance_config")
    level = logging.INFO if quiet else logging.WARNING
    logger.log(level, "Steering with beta=%s, from: %s. Pass `beta` to change it.", beta, origin)


def _saved_guidance(source: RewardModelSource) -> RewardGuidanceConfig | None:
    """The `guidance_config.json` beside a reward model, if there is one. A folder is read again, the hub once."""
    if not Path(source.name).is_dir():
        return _hub_guidance(source)
    try:
        return RewardGuidanceConfig.from_pretrained(source.name)
    except FileNotFoundError:
        return None


@cache
def _hub_guidance(source: RewardModelSource) -> RewardGuidanceConfig | None:
    try:
        return RewardGuidanceConfig.from_pretrained(*source)
    except FileNotFoundError:
        return None
    except OSError as error:  # no network, no such repository, no access to it
        logger.warning(
            "%s of %s could not be looked up (%s), so the default settings apply.",
            GUIDANCE_CONFIG_NAME,
            source.name,
            type(error).__name__,
        )
        return None
