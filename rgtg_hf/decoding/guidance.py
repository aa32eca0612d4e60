"""The arithmetic of guidance, as pure functions, and its settings.

    pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · exp(beta · [r(x, y_<t v) - r(x, y_<t)])        v among the candidates

Source: Rashid et al., "A Critical Look At Tokenwise Reward-Guided Text Generation", arXiv:2406.07780. The reward of
the prefix that is subtracted is constant in v, so sampling and greedy decoding are those of the paper; in beam search
it makes the score of a path telescope to log p(y|x) + beta (r(x, y) - r(x)).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from torch import Tensor

from rgtg_hf.arguments import check_count, check_number
from rgtg_hf.scoring.choose import SCORERS

__all__ = ["Candidates", "RewardGuidanceConfig", "divergence", "guide", "keep_candidates", "select_candidates"]

GUIDANCE_CONFIG_NAME = "guidance_config.json"


@dataclass
class RewardGuidanceConfig:
    """How a reward model steers. Saved beside a reward model as `guidance_config.json`.

    Args:
        beta: Strength of steering, in nats per unit of reward: it multiplies the reward. 0 does not steer; negative
            values steer away from what the reward model prefers.
        top_k: How many of the policy's likeliest tokens are candidates at each step. All others are ruled out.
            `None` means the whole vocabulary, which is meant for tiny ones.
        top_p: Among the top k, only the likeliest tokens whose probabilities (under the policy, over the whole
            vocabulary) reach `top_p` together are candidates. `None` for no such filter.
        min_p: Among the top k, only tokens at least `min_p` times as likely as the likeliest are candidates. `None`
            for no such filter.
        min_entropy: Steer a row only where the policy's entropy over the candidates, in nats, is at least this; where
            it is lower the row follows the policy over the same candidates. `None` steers everywhere. In beam search
            a step that was not steered adds no reward to the path's score.
        scorer: `"auto"` for the fastest scorer that a probe finds right, or the name of one: `"tree"`, `"expand"`,
            `"reference"`.

    Raises:
        ValueError: If a value is out of range.
        TypeError: If a value is of another type.

    Example:
        ```python
        from rgtg_hf import RewardGuidanceConfig

        config = RewardGuidanceConfig(beta=1.5, top_k=20)
        config.save_pretrained("my-reward-model")
        assert RewardGuidanceConfig.from_pretrained("my-reward-model") == config
        ```
    """

    beta: float = 1.0
    top_k: int | None = 10
    top_p: float | None = None
    min_p: float | None = None
    min_entropy: float | None = None
    scorer: str = "auto"

    def __post_init__(self) -> None:
        check_number("beta", self.beta)
        if self.top_k is not None:
            check_count("top_k", self.top_k, otherwise=", or None for the whole vocabulary")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value)
                if not 0 < value <= 1:
                    raise ValueError(f"`{name}` is {value}, but a probability above 0 and up to 1 is required.")
        if self.min_entropy is not None:
            check_number("min_entropy", self.min_entropy)
            if self.min_entropy < 0:
                raise ValueError(f"`min_entropy` is {self.min_entropy}, but an entropy is 0 nats or more.")
        if not isinstance(self.scorer, str):
            raise TypeError(f"`scorer` is {self.scorer!r}, but it must be the name of a scorer, such as 'auto'.")
        if self.scorer != "auto" and self.scorer not in SCORERS:
            raise ValueError(f"`scorer` is {self.scorer!r}, but must be one of {['auto', *SCORERS]}.")

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes `guidance_config.json` into a directory, which is made if it does not exist."""
        if not isinstance(save_directory, (str, Path)):
            raise TypeError(f"`save_directory` is {save_directory!r}, but the path of a directory is required.")
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / GUIDANCE_CONFIG_NAME).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, name: str | Path, revision: str | None = None) -> RewardGuidanceConfig:
        """Reads `guidance_config.json` of a reward model.

        Args:
            name: The reward model's directory, or its name on the hub.
            revision: Which branch, tag or commit of the hub's repository.

        Raises:
            TypeError: If `name` is no text or path.
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
            raise ValueError(f"{path} is not valid JSON ({error}). Write it anew with save_pretrained.") from None
        if not isinstance(settings, dict):
            raise ValueError(f"{path} holds a {type(settings).__name__}, but an object of settings is required.")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(settings) - known):
            raise ValueError(f"{path} has unknown settings {unknown}: known are {sorted(known)}.")
        return cls(**settings)


class Candidates(NamedTuple):
    """The candidates of one step, the policy's likeliest first.

    Attributes:
        ids: Token ids, shape `[rows, k]`.
        scores: The policy's scores of them (logits or log-probabilities), shape `[rows, k]`.
        valid: Whether an entry is a candidate at all: rows may have fewer than k, shape `[rows, k]`.
    """

    ids: Tensor
    scores: Tensor
    valid: Tensor


def select_candidates(scores: Tensor, config: RewardGuidanceConfig, vocabulary_size: int | None = None) -> Candidates:
    """Picks the tokens that are scored, per row.

    Args:
        scores: The policy's scores, shape `[rows, vocabulary]`; `-inf` rules a token out.
        config: The filters `top_k`, `top_p`, `min_p`.
        vocabulary_size: How many tokens the reward model can read; others (the padding of a larger output layer,
            which stands for no token) are no candidates.

    Returns:
        The candidates, in as many columns as the row with the most of them needs.

    Raises:
        FloatingPointError: If a score is NaN.
    """
    scores = scores[:, :vocabulary_size]
    k = scores.shape[-1] if config.top_k is None else min(config.top_k, scores.shape[-1])
    top, ids = scores.topk(k, dim=-1)
    valid = top > float("-inf")
    if config.min_p is not None:
        valid &= top >= top[:, :1] + math.log(config.min_p)
    if config.top_p is not None and config.top_p < 1:  # all of them: rounding must not rule out the least likely
        probabilities = torch.exp(top - torch.logsumexp(scores, dim=-1, keepdim=True))
        # A token is kept while the likelier ones have not reached top_p, so the first one always is.
        valid &= probabilities.cumsum(-1) - probabilities < config.top_p
    if not bool((~valid).any()):
        return Candidates(ids, top, valid)
    if bool(top[:, 0].isnan().any()):  # NaN comes first in topk, and is no candidate
        raise FloatingPointError(
            "The policy's `scores` hold NaN, of which no token can be chosen: load the policy in float32 or bfloat16, "
            "and check its weights."
        )
    width = max(1, int(valid.sum(-1).max()))
    return Candidates(ids[:, :width], top[:, :width], valid[:, :width])


def keep_candidates(scores: Tensor, candidates: Candidates) -> Tensor:
    """The policy restricted to its candidates, unsteered: `-inf` elsewhere; shape as `scores`, which is not changed.

    Tokens that tie with the least likely candidate are kept, as `top_k` of `generate()` keeps them.
    """
    lowest = candidates.scores.masked_fill(~candidates.valid, float("inf")).amin(-1, keepdim=True)
    return scores.masked_fill(scores < lowest, float("-inf"))


def guide(scores: Tensor, candidates: Candidates, rewards: Tensor, base: Tensor, beta: float) -> Tensor:
    """Adds beta · [r(x, y_<t v) - r(x, y_<t)] to the candidates' scores and rules out all other tokens.

    Args:
        scores: The policy's scores, logits or log-probabilities, shape `[rows, vocabulary]`. Not changed.
        candidates: The candidates of these rows.
        rewards: Rewards of the candidates, float32, shape `[rows, k]`.
        base: Reward of the prefix, float32, shape `[rows]`.
        beta: Strength of steering, in nats per unit of reward.

    Returns:
        Guided scores, unnormalised, shape and dtype as `scores`.
    """
    guided = candidates.scores + (beta * (rewards - base[:, None])).to(scores.dtype)
    guided = guided.masked_fill(~candidates.valid, float("-inf"))
    return torch.full_like(scores, float("-inf")).scatter(1, candidates.ids, guided)


def divergence(guided: Tensor, policy: Tensor) -> Tensor:
    """KL(guided ‖ policy) = sum over v of guided(v) · log [guided(v) / policy(v)], exact, in nats.

    Args:
        guided: Log-probabilities of the guided policy, `-inf` where there is no candidate, shape `[rows, k]`.
        policy: Log-probabilities of the policy over the same candidates, shape `[rows, k]`.

    Returns:
        Divergences in the dtype given, shape `[rows]`.
    """
    terms = guided.exp() * (guided - policy)
    return terms.masked_fill(guided == float("-inf"), 0.0).sum(-1)
