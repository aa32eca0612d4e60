"""Guards against running off: bounds on how far steering may move a single step. All are off by default."""

from __future__ import annotations

import torch
from torch import Tensor

from rgtg_hf.decoding.guidance import divergence

__all__ = ["limit_divergence", "limit_increments"]

_BISECTIONS = 30  # halves the interval to a billionth: exact in float32


def limit_increments(increments: Tensor, limit: float) -> Tensor:
    """Clips what steering adds to the candidates' scores.

    Args:
        increments: beta · [r(x, y_<t v) - r(x, y_<t)] in nats, shape `[rows, k]`.
        limit: The most, in nats, that a candidate may gain or lose.

    Returns:
        Increments between `-limit` and `limit`, shape `[rows, k]`.
    """
    return increments.clamp(-limit, limit)


def limit_divergence(scores: Tensor, increments: Tensor, budget: float) -> Tensor:
    """Scales the increments of each row down until the step's divergence is within a budget.

    KL(guided ‖ policy) over the candidates grows with the scale, so the largest scale allowed is found by bisection.
    It is as if `beta` were smaller at that step.

    Args:
        scores: The policy's scores of the candidates, `-inf` where there is none, shape `[rows, k]`.
        increments: What steering adds to them, in nats, shape `[rows, k]`.
        budget: The most divergence that a step may have, in nats.

    Returns:
        The scaled increments, shape `[rows, k]`.

    Example:
        ```python
        import torch
        from rgtg_hf.decoding.guards import limit_divergence

        increments = torch.tensor([[5.0, 0.0], [0.01, 0.0]])
        scaled = limit_divergence(torch.zeros(2, 2), increments, budget=0.1)
        assert scaled[0, 0] < 5.0 and torch.equal(scaled[1], increments[1])
        ```
    """
    low = torch.zeros_like(increments[:, :1])
    high = torch.ones_like(low)
    within = _divergence(scores, increments) <= budget
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        fits = _divergence(scores, middle * increments) <= budget
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(within, increments, low * increments)


def _divergence(scores: Tensor, increments: Tensor) -> Tensor:
    """KL(guided ‖ policy) over the candidates, shape `[rows, 1]`."""
    guided = (scores.float() + increments).log_softmax(-1)
    return divergence(guided, scores.float().log_softmax(-1))[:, None]
