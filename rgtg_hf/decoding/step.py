"""One decoding step: from scores, increments and settings to guided scores.

    pi(v | x, y_<t)  ∝  pi_LM(v | x, y_<t) · exp(beta · [r(x, y_<t v) - r(x, y_<t)])        v among the candidates

Source: Rashid et al., "A Critical Look At Tokenwise Reward-Guided Text Generation", arXiv:2406.07780. The increment
r(x, y_<t v) - r(x, y_<t) differs from the paper's reward by a constant of the row, so sampling and greedy decoding are
those of the paper. In beam search it makes the score of a path telescope to log p(y|x) + beta (r(x, y) - r(x)).

The processor, steering heads and the server all take their steps here, so every setting works for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rgtg_hf.config import RewardGuidanceConfig
from rgtg_hf.decoding.limits import limit_divergence

__all__ = ["Candidates", "GuidedStep", "guide_step", "keep_candidates", "raise_if_not_finite", "select_candidates"]


class Candidates(NamedTuple):
    """The candidates of one step, the policy's most likely first.

    Attributes:
        ids: Token ids, shape `[rows, k]`.
        scores: The policy's scores of them (logits or log-probabilities), shape `[rows, k]`.
        valid: Whether an entry is a candidate: rows may have fewer than k, shape `[rows, k]`, boolean.
    """

    ids: Tensor
    scores: Tensor
    valid: Tensor


class GuidedStep(NamedTuple):
    """The result of a step.

    Attributes:
        scores: The guided scores, `-inf` for all but the candidates, shape `[rows, vocabulary]`.
        candidates: The candidates.
        wanted: Candidates whose increments were asked for, shape `[rows, k]`, boolean.
        increments: Their increments, shape `[rows, k]`; `None` if no row needed any.
        not_finite: Candidates among them for which beta times the increment is not finite, shape `[rows, k]`. Their
            rows follow the policy. `None` if all are finite.
    """

    scores: Tensor
    candidates: Candidates
    wanted: Tensor
    increments: Tensor | None = None
    not_finite: Tensor | None = None


@torch.no_grad()
def guide_step(
    scores: Tensor,
    config: RewardGuidanceConfig,
    score: Callable[[Tensor, Tensor], Tensor],
    *,
    vocabulary_size: int | None = None,
    going_on: Tensor | None = None,
    compare_paths: bool | Tensor = False,
    look: Callable[[Tensor], list[int]] = Tensor.tolist,
) -> GuidedStep:
    """Guides one step of a batch of rows.

    Args:
        scores: The policy's scores of the next token, `-inf` where a token is ruled out, shape `[rows, vocabulary]`.
            They are not changed.
        config: The resolved settings: numbers, or tensors of shape `[rows, 1]` where rows differ.
        score: Gives the increments of candidates: takes their ids, shape `[rows, k]`, and which of them are wanted,
            boolean, shape `[rows, k]`; returns float32, shape `[rows, k]`. It is called at most once, and not at all
            if no row needs a reward.
        vocabulary_size: How many token ids the reward model can read. Others are ruled out.
        going_on: Rows that have not ended, shape `[rows]`, boolean. The others follow the policy. Defaults to all.
        compare_paths: Whether scores are compared between rows, as in beam search. Otherwise a row with one
            candidate needs no reward, since it has no choice.
        look: Copies a few integers to the host, before `score` is called. A caller with more to look at does so at
            the same time: on a GPU each look waits for all that was asked of it.

    Returns:
        The guided scores, and what they were made of.

    Raises:
        FloatingPointError: If a score is NaN.
    """
    candidates = _filtered(scores, config, vocabulary_size)
    guided_rows = _uncertain_enough(candidates, config)
    if going_on is not None:
        guided_rows = guided_rows & going_on
    beta: Any = config.beta
    if isinstance(beta, Tensor):
        guided_rows = guided_rows & (beta[:, 0] != 0)
    wanted = candidates.valid & guided_rows[:, None]
    if compare_paths is not True:
        wanted = wanted & ((candidates.valid.sum(-1, keepdim=True) > 1) | compare_paths)
    candidates, any_wanted, all_guided = _look(candidates, look, wanted.any(), guided_rows.all())
    wanted = wanted[:, : candidates.ids.shape[1]]
    if not any_wanted or (not isinstance(beta, Tensor) and beta == 0):
        return GuidedStep(keep_candidates(scores, candidates, vocabulary_size), candidates, wanted & False)

    increments = score(candidates.ids, wanted)
    changes = (beta * increments).masked_fill(~wanted, 0.0)
    not_finite = ~torch.isfinite(changes)
    failed = bool(not_finite.any())
    if failed:
        guided_rows = guided_rows & ~not_finite.any(-1)
        changes = changes.masked_fill(not_finite, 0.0)
    guided = _add(scores, candidates, _limited(changes, candidates, config))
    if failed or not all_guided:
        plain = keep_candidates(scores, candidates, vocabulary_size)
        guided = torch.where(guided_rows[:, None], guided, plain)
    return GuidedStep(guided, candidates, wanted, increments, not_finite if failed else None)


def select_candidates(scores: Tensor, config: RewardGuidanceConfig, vocabulary_size: int | None = None) -> Candidates:
    """Picks the candidates of each row.

    Args:
        scores: The policy's scores, shape `[rows, vocabulary]`; `-inf` rules a token out.
        config: The filters `top_k`, `top_p`, `min_p`.
        vocabulary_size: How many tokens the reward model can read. Others are not candidates: they are the padding of
            a larger output layer and stand for no token.

    Returns:
        The candidates, in as many columns as the row with the most of them needs.

    Raises:
        FloatingPointError: If a score is NaN.
    """
    return _look(_filtered(scores, config, vocabulary_size), Tensor.tolist)[0]


def _filtered(scores: Tensor, settings: Any, vocabulary_size: int | None) -> Candidates:
    """The candidates in as many columns as the settings allow at most."""
    scores = scores[:, :vocabulary_size]
    top_k, top_p, min_p = settings.top_k, settings.top_p, settings.min_p
    widest = int(top_k.max()) if isinstance(top_k, Tensor) else top_k
    top, ids = scores.topk(min(widest or scores.shape[-1], scores.shape[-1]), dim=-1)
    valid = top > float("-inf")
    if isinstance(top_k, Tensor):
        valid &= torch.arange(top.shape[1], device=top.device) < top_k
    if _is_on(min_p, off=0.0):
        valid &= top >= top[:, :1] + torch.as_tensor(min_p).log()
    if _is_on(top_p, off=1.0):
        probabilities = torch.exp(top - torch.logsumexp(scores, dim=-1, keepdim=True))
        # A token is kept while more likely ones have not reached top_p, so the first one always is. At 1 all are:
        # rounding must not rule out the least likely.
        valid &= (probabilities.cumsum(-1) - probabilities < top_p) | (torch.as_tensor(top_p) >= 1)
    return Candidates(ids, top, valid)


def _look(candidates: Candidates, look: Callable[[Tensor], list[int]], *flags: Tensor) -> tuple[Any, ...]:
    """The candidates in as many columns as they need, and the flags as booleans: one copy from the device."""
    # NaN comes first in topk, and is not a candidate.
    some_nan = candidates.scores[:, 0].isnan().any()
    width, is_nan, *values = look(torch.stack([candidates.valid.sum(-1).max(), some_nan, *flags]))
    if is_nan:
        raise FloatingPointError(
            "The policy's `scores` hold NaN, of which no token can be chosen: load the policy in float32 or bfloat16, "
            "and check its weights."
        )
    return Candidates(*(part[:, : max(1, width)] for part in candidates)), *map(bool, values)


def keep_candidates(scores: Tensor, candidates: Candidates, vocabulary_size: int | None = None) -> Tensor:
    """The policy restricted to its candidates, unguided: `-inf` elsewhere; shape as `scores`, which is not changed.

    Tokens that tie with the least likely candidate are kept, as `top_k` of `generate()` keeps them. Tokens that the
    reward model cannot read are not.
    """
    lowest = candidates.scores.masked_fill(~candidates.valid, float("inf")).amin(-1, keepdim=True)
    kept = scores.masked_fill(scores < lowest, float("-inf"))
    if vocabulary_size is not None and vocabulary_size < scores.shape[-1]:
        kept[:, vocabulary_size:] = float("-inf")
    return kept


def raise_if_not_finite(step: GuidedStep, beta: Any, length: int) -> None:
    """Raises where a reward of a step is not finite.

    Args:
        step: The step.
        beta: Strength of steering.
        length: Tokens before the step.

    Raises:
        FloatingPointError: If there is such a reward, or `beta` makes one of it.
    """
    if step.not_finite is None:
        return
    assert step.increments is not None
    bad = step.not_finite & ~torch.isfinite(step.increments)
    if not bool(bad.any()):
        raise FloatingPointError(
            f"`beta` is {beta}: its product with the reward's increments is not finite in float32. Rewards of "
            "ordinary size need a beta of 1e6 at the very most, which follows the reward alone."
        )
    row = int(bad.any(-1).nonzero()[0])
    raise FloatingPointError(
        f"The reward model gave rewards that are not finite: row {row}, after {length} tokens, for the candidates "
        f"{step.candidates.ids[row][bad[row]].tolist()} ({step.increments[row][bad[row]].tolist()}). Load it in "
        "float32 or bfloat16, check its weights, and keep `beta` to ordinary sizes."
    )


def _uncertain_enough(candidates: Candidates, settings: Any) -> Tensor:
    """Rows whose policy has at least the entropy that guidance requires, shape `[rows]`."""
    threshold = settings.min_entropy
    if not _is_on(threshold, off=0.0):
        return torch.ones(len(candidates.ids), dtype=torch.bool, device=candidates.ids.device)
    logits = candidates.scores.masked_fill(~candidates.valid, float("-inf"))
    entropy = torch.distributions.Categorical(logits=logits, validate_args=False).entropy()
    return entropy >= (threshold[:, 0] if isinstance(threshold, Tensor) else threshold)


def _limited(changes: Tensor, candidates: Candidates, settings: Any) -> Tensor:
    """The nats that guidance adds to the candidates' scores, within the limits of the settings, shape `[rows, k]`."""
    if _is_on(most := settings.max_increment, off=math.inf):
        changes = changes.clamp(-most, most)
    if _is_on(budget := settings.max_step_kl, off=math.inf):
        scores = candidates.scores.masked_fill(~candidates.valid, float("-inf"))
        changes = limit_divergence(scores, changes, budget)
    return changes


def _add(scores: Tensor, candidates: Candidates, changes: Tensor) -> Tensor:
    """The scores with the changes added to the candidates, all others ruled out, shape and dtype as `scores`."""
    guided = candidates.scores + changes.to(scores.dtype)
    guided = guided.masked_fill(~candidates.valid, float("-inf"))
    return torch.full_like(scores, float("-inf")).scatter(1, candidates.ids, guided)


def _is_on(setting: Any, off: float) -> bool:
    """Whether a setting, a number or a tensor with one per row, can change anything."""
    return isinstance(setting, Tensor) or setting != off
