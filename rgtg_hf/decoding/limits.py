"""The divergence of a step from the policy, and a limit on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["divergence", "limit_divergence"]

_BISECTIONS = 30  # halves the interval to a billionth: exact in float32


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


def limit_divergence(scores: Tensor, changes: Tensor, budget: Any) -> Tensor:
    """Scales the changes of each row down until the step's divergence is within a budget.

    KL(guided ‖ policy) over the candidates grows with the scale, so the largest scale allowed is found by bisection.
    It is as if `beta` were smaller at that step.

    Args:
        scores: The policy's scores of the candidates, `-inf` where there is none, shape `[rows, k]`.
        changes: The nats that guidance adds to them, shape `[rows, k]`.
        budget: The most divergence that a step may have, in nats: a number, or a tensor of shape `[rows, 1]`.

    Returns:
        The scaled changes, shape `[rows, k]`.

    Example:
        ```python
        import torch
        from rgtg_hf.decoding.limits import limit_divergence

        changes = torch.tensor([[5.0, 0.0], [0.01, 0.0]])
        scaled = limit_divergence(torch.zeros(2, 2), changes, budget=0.1)
        assert scaled[0, 0] < 5.0 and torch.equal(scaled[1], changes[1])
        ```
    """
    low = torch.zeros_like(changes[:, :1])
    high = torch.ones_like(low)
    within = _divergence(scores, changes) <= budget
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fits = _divergence(scores, middle * changes) <= budget
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(within, changes, low * changes)


def _divergence(scores: Tensor, changes: Tensor) -> Tensor:
    """KL(guided ‖ policy) over the candidates, shape `[rows, 1]`."""
    guided = (scores.float() + changes).log_softmax(-1)
    return divergence(guided, scores.float().log_softmax(-1))[:, None]
