"""What a server is told at its start, and what a request asks for."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from rgtg_hf.arguments import check_count, check_number, shown
from rgtg_hf.decoding.guidance import RewardGuidanceConfig

__all__ = ["MAX_TOP_K", "RequestGuidance", "ServerSettings", "requested_guidance"]

MAX_TOP_K = 256
_MAX_BETA = 1e6
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_KEY = "rgtg"


@dataclass(frozen=True)
class ServerSettings:
    """Settings of a server, given at its start as `additional_config={"rgtg": {...}}`.

    Args:
        reward_model: The reward model that requests are guided by: a folder, or a name on the hub.
        revision: Which branch, tag or commit of the hub's repository.
        head: The steering head of a policy that is served as one of the `Steered...` architectures: a folder, or a
            name on the hub.
        head_beta: How strongly the head steers every request, in nats per unit of reward.
        dtype: In which precision to load the reward model: `"auto"` for that of its checkpoint, `"float32"`,
            `"bfloat16"`, `"float16"`.
        device: Where to put it, such as `"cuda:1"`. `None` for where the policy is.
        cache_gib: How much memory the reward model's cache may take at most, in GiB.

    Raises:
        TypeError: If a value is of another type.
        ValueError: If one is missing, unknown or out of range.
    """

    reward_model: str | None = None
    revision: str | None = None
    head: str | None = None
    head_beta: float = 1.0
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
        check_number("head_beta", self.head_beta)
        check_number("cache_gib", self.cache_gib)
        if self.cache_gib <= 0:
            raise ValueError(f"`cache_gib` is {self.cache_gib}, but a number above 0 is required.")

    @classmethod
    def from_additional_config(cls, additional_config: Any, required: str) -> ServerSettings:
        """Reads the settings from what the engine was started with.

        Args:
            additional_config: The engine's additional configuration.
            required: The setting that must be among them, `"reward_model"` or `"head"`.
        """
        given = additional_config.get(_KEY) if isinstance(additional_config, dict) else None
        if not isinstance(given, dict) or given.get(required) is None:
            raise ValueError(
                f"The engine was started without a {required.replace('_', ' ')} to steer by: pass "
                f'additional_config={{"{_KEY}": {{"{required}": NAME}}}}, or on the command line '
                f'--additional-config \'{{"{_KEY}": {{"{required}": "NAME"}}}}\'.'
            )
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"additional_config[{_KEY!r}] has unknown settings {unknown}: known are {known}.")
        return cls(**given)


@dataclass(frozen=True)
class RequestGuidance:
    """How one request is guided; what is `None` is as the server's default says.

    Args:
        beta: Strength of steering, in nats per unit of reward.
        top_k: How many of the policy's likeliest tokens are candidates at each step, `MAX_TOP_K` at most.
    """

    beta: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.beta is not None:
            check_number("rgtg.beta", self.beta)
            if abs(self.beta) > _MAX_BETA:
                raise ValueError(f"`rgtg.beta` is {self.beta}, but must be within {_MAX_BETA:.0e} of 0.")
        if self.top_k is not None:
            check_count("rgtg.top_k", self.top_k)
            if self.top_k > MAX_TOP_K:
                raise ValueError(f"`rgtg.top_k` is {self.top_k}, but may be {MAX_TOP_K} at most.")

    def filled(self, default: RewardGuidanceConfig) -> tuple[float, int]:
        """Beta and top k, the default's where it has none."""
        beta = default.beta if self.beta is None else self.beta
        top_k = min(default.top_k or MAX_TOP_K, MAX_TOP_K) if self.top_k is None else self.top_k
        return float(beta), top_k


def requested_guidance(extra_args: dict[str, Any] | None) -> RequestGuidance | None:
    """What a request asks for.

    Args:
        extra_args: The request's extra arguments. Guidance is in `{"rgtg": {"beta": 1.5, "top_k": 10}}`; or, for ways
            in that take no objects, such as `vllm_xargs` of the OpenAI server, in
            `{"rgtg_beta": 1.5, "rgtg_top_k": 10}`, or in the object as JSON text.

    Returns:
        `None` if the request is not to be guided.

    Raises:
        ValueError: If it asks for something that there is not. (Also for values of another type: it is the one
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
    known = [field.name for field in fields(RequestGuidance)]
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"`{_KEY}` has unknown settings {unknown}: known are {known}.")
    if twice := sorted(set(given or {}) & set(flat)):
        raise ValueError(f"`{_KEY}` has {twice} twice: once in the object and once as a key of its own.")
    try:
        return RequestGuidance(**settings)
    except TypeError as error:
        raise ValueError(str(error)) from None
