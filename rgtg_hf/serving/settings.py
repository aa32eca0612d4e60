"""Settings of a server, given at its start, and the settings that a request asks for."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from rgtg_hf.arguments import check_number, near_names, shown
from rgtg_hf.config import DEFAULTS, RewardGuidanceConfig, resolve_guidance

__all__ = ["MAX_TOP_K", "ServerSettings", "requested_guidance", "resolved_request"]

MAX_TOP_K = 256
_MAX_BETA = 1e6
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_NOT_SERVED = ("value_beta", "scorer", "search", "num_rows", "block_size", "max_rows", "search_return", "soften")
_KEY = "rgtg"


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server, given at its start as `additional_config={"rgtg": {...}}`.

    Args:
        reward_model: The reward model that requests are guided by: a folder, or a name on the hub.
        revision: A branch, tag or commit of the hub's repository.
        head: The steering head of a policy that is served as one of the `Steered...` architectures: a folder, or a
            name on the hub.
        head_beta: How strongly the head steers every request, in nats per unit of reward. Defaults to the `beta` of
            its `guidance_config.json`, or 1.
        dtype: In which precision to load the reward model: `"auto"` for that of its checkpoint, `"float32"`,
            `"bfloat16"`, `"float16"`.
        device: Where to put it, such as `"cuda:1"`. `None` for where the policy is.
        cache_gib: How much memory the reward model's cache may take at most, in GiB.

    Raises:
        TypeError: If a value has another type.
        ValueError: If one is missing, unknown or out of range.
    """

    reward_model: str | None = None
    revision: str | None = None
    head: str | None = None
    head_beta: float | None = None
    dtype: str = "auto"
    device: str | None = None
    cache_gib: float = 4.0

    def __post_init__(self) -> None:
        for name in ("reward_model", "revision", "head", "device"):
            value = getattr(self, name)
            if not isinstance(value, (str, type(None))) or value == "":
                raise ValueError(f"`{name}` is {shown(value)}, but text is required, or nothing.")
        if self.dtype not in _DTYPES:
            raise ValueError(f"`dtype` is {shown(self.dtype)}, but must be one of {list(_DTYPES)}.")
        if self.head_beta is not None:
            check_number("head_beta", self.head_beta)
        check_number("cache_gib", self.cache_gib)
        if self.cache_gib <= 0:
            raise ValueError(f"`cache_gib` is {self.cache_gib}, but a number above 0 is required.")

    @classmethod
    def from_additional_config(cls, additional_config: Any, required: str) -> ServerSettings:
        """Reads the settings from the engine's additional configuration.

        Args:
            additional_config: The engine's additional configuration.
            required: The setting that must be among them, `"reward_model"` or `"head"`.
        """
        given = additional_config.get(_KEY) if isinstance(additional_config, dict) else None
        example = (
            f'additional_config={{"{_KEY}": {{"{required}": NAME}}}}, or on the command line '
            f'--additional-config \'{{"{_KEY}": {{"{required}": "NAME"}}}}\''
        )
        return cls.of(given, required, f"additional_config[{_KEY!r}]", example)

    @classmethod
    def of(cls, given: Any, required: str, name: str, example: str) -> ServerSettings:
        """Reads the settings from an object of them.

        Args:
            given: The object.
            required: The setting that must be among them, `"reward_model"` or `"head"`.
            name: The object's name, for errors.
            example: How to give it, for errors.
        """
        if not isinstance(given, dict) or given.get(required) is None:
            raise ValueError(
                f"The engine was started without a {required.replace('_', ' ')} to steer by: pass {example}."
            )
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            near = near_names(unknown, known)
            raise ValueError(f"{name} has unknown settings {unknown}. {near}The settings are {known}.")
        return cls(**given)


def requested_guidance(extra_args: dict[str, Any] | None) -> RewardGuidanceConfig | None:
    """The settings that a request asks for.

    Args:
        extra_args: The request's extra arguments. Guidance is in `{"rgtg": {"beta": 1.5, "top_k": 10}}`, with the
            settings of [`RewardGuidanceConfig`][rgtg_hf.config.RewardGuidanceConfig] that guide tokens. Where a way in
            takes no objects, such as `vllm_xargs` of the OpenAI server, it is in
            `{"rgtg_beta": 1.5, "rgtg_top_k": 10}`, or in the object as JSON text.

    Returns:
        `None` if the request is not to be guided.

    Raises:
        ValueError: If a setting is unknown or cannot be used. (Also for values of another type: it is the one
            exception that servers turn into an answer to the client.)
    """
    if not extra_args:
        return None
    prefix = f"{_KEY}_"
    flat = {
        key.removeprefix(prefix): value
        for key, value in extra_args.items()
        if isinstance(key, str) and key.startswith(prefix)
    }
    given = extra_args.get(_KEY)
    if given is None and not flat:
        return None
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise ValueError(f"`{_KEY}` is {shown(given)}, which is not valid JSON ({error}).") from None
    if given is not None and not isinstance(given, dict):
        raise ValueError(
            f'`{_KEY}` is {shown(given)}, but an object such as {{"beta": 1.5, "top_k": 10}} is required.'
        )
    settings = (given or {}) | flat
    known = [name for name in DEFAULTS if name not in _NOT_SERVED]
    if unknown := sorted(set(settings) - set(known)):
        near = near_names(unknown, known)
        raise ValueError(f"`{_KEY}` has unknown settings {unknown}. {near}The settings are {known}.")
    if twice := sorted(set(given or {}) & set(flat)):
        raise ValueError(f"`{_KEY}` has {twice} twice: once in the object and once as a key of its own.")
    try:
        guidance = RewardGuidanceConfig(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{_KEY}`: {error}") from None
    if guidance.beta is not None and abs(guidance.beta) > _MAX_BETA:
        raise ValueError(f"`{_KEY}`: `beta` is {guidance.beta}, but must be within {_MAX_BETA:.0e} of 0.")
    if guidance.top_k is not None and not 1 <= guidance.top_k <= MAX_TOP_K:
        raise ValueError(f"`{_KEY}`: `top_k` is {guidance.top_k}, but must be from 1 to {MAX_TOP_K} in a server.")
    return guidance


def resolved_request(requested: RewardGuidanceConfig, default: RewardGuidanceConfig) -> RewardGuidanceConfig:
    """A request's settings, those of the server where it has none."""
    config = resolve_guidance(vars(requested), default).config
    config.top_k = min(config.top_k or MAX_TOP_K, MAX_TOP_K)
    return config
