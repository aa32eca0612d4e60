"""Whether the returns that a value model expects are those that come, on responses that it was not trained on.

For any prefix and any b, the exact soft value has E exp(b (r - V_b)) = 1 over the responses that go on from it. So the
log of that mean over held-out responses is 0 where a model is right. The larger the b, the more it asks of the upper
end of the distribution, which few responses show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rgtg_hf.rewards.value_model import soft_value

__all__ = ["TRUST", "calibration", "calibration_sums", "trusted_value_beta"]

TRUST = 0.5  # nats, two standard errors included
_SCALES = (1, 2, 4, 8, 16, 32, 64)  # b times the range of returns
_PARTS = 10  # of the range of returns, by which expected and found ones are compared
_LARGEST_RATIO = 80.0  # nats, whose exp is still a float32; a model that is off by as much is wrong anyway
_SMALLEST_PART = 0.01  # of all prefixes; fewer say nothing


def calibration_sums(logits: Tensor, rewards: Tensor, weights: Tensor, bins: Tensor) -> dict[str, Tensor]:
    """The sums over the prefixes of each response that [`calibration`] is made of.

    Args:
        logits: Scores of the bins at each position, shape `[batch, length, bins]`.
        rewards: What came, shape `[batch]`. It may lie outside of the bins.
        weights: The weight of each prefix, 0 where there is none, shape `[batch, length]`.
        bins: The return of each bin, shape `[bins]`.

    Returns:
        Tensors of shape `[batch]`, by name.
    """
    spread = bins[-1] - bins[0]
    sums = {"weight": weights.sum(1)}
    for scale in _SCALES:
        b = float(scale / spread)
        ratio = (b * (rewards[:, None] - soft_value(logits, bins, b))).clamp(max=_LARGEST_RATIO).exp()
        sums[f"ratio_{scale}"] = (weights * ratio).sum(1)
    expected = soft_value(logits, bins, 0.0)
    part = ((expected - bins[0]) / spread * _PARTS).long().clamp(0, _PARTS - 1)
    for k in range(_PARTS):
        here = weights * (part == k)
        sums |= {f"weight_of_{k}": here.sum(1), f"expected_{k}": (here * expected).sum(1)}
        sums[f"found_{k}"] = here.sum(1) * rewards
    return sums


def calibration(sums: Mapping[str, Sequence[float]], value_range: Sequence[float]) -> dict[str, Any]:
    """Puts the sums of all responses together.

    Args:
        sums: The [`calibration_sums`] of each response.
        value_range: The returns of the first and the last bin.

    Returns:
        `responses`, their number. `value_beta`, `log_ratio` and `standard_error`, lists of one length: several b, and
        log E exp(b (r - V_b)) at each, in nats. `expected`, `found` and `share`: the mean of the expected and of the
        found return of prefixes whose expected return is in the same tenth of the range, and how many they are of
        all; tenths with a hundredth of them or less are left out.
    """
    low, high = value_range
    columns = {name: torch.tensor(values, dtype=torch.float64) for name, values in sums.items()}
    weight = columns["weight"]
    logs, errors = [], []
    for scale in _SCALES:
        ratio = columns[f"ratio_{scale}"]
        mean = float(ratio.sum() / weight.sum())
        logs.append(math.log(mean))
        # Of a ratio of two sums over responses, by the delta method.
        errors.append(float((ratio - mean * weight).square().sum().sqrt() / ratio.sum()))
    of_parts = {k: float(columns[f"weight_of_{k}"].sum()) for k in range(_PARTS)}
    parts = [k for k, own in of_parts.items() if own > _SMALLEST_PART * float(weight.sum())]
    return {
        "responses": len(weight),
        "value_beta": [scale / (high - low) for scale in _SCALES],
        "log_ratio": logs,
        "standard_error": errors,
        "expected": [float(columns[f"expected_{k}"].sum()) / of_parts[k] for k in parts],
        "found": [float(columns[f"found_{k}"].sum()) / of_parts[k] for k in parts],
        "share": [of_parts[k] / float(weight.sum()) for k in parts],
    }


def trusted_value_beta(found: Mapping[str, Any]) -> float:
    """The largest b up to which a value model was right to half a nat, two standard errors included.

    Args:
        found: A [`calibration`].

    Returns:
        One of its `value_beta`, or 0.
    """
    trusted = 0.0
    for b, log, error in zip(found["value_beta"], found["log_ratio"], found["standard_error"], strict=True):
        if not abs(log) + 2 * error <= TRUST:
            break
        trusted = b
    return trusted
