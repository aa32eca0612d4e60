"""How often the preferred response has the higher reward, by how much of both responses has been read."""

from __future__ import annotations

from torch import Tensor

__all__ = ["CURVE_FRACTIONS", "accuracy_curve", "rewards_at_fraction", "share_won"]

CURVE_FRACTIONS = tuple(i / 10 for i in range(1, 11))


def rewards_at_fraction(rewards: Tensor, response_length: Tensor, fraction: float) -> Tensor:
    """The reward of each response after a fraction of it has been read.

    A fraction below 1 reads a proper prefix of at least one token, ceil(fraction * (n - 1)) of n tokens, and so never
    the end-of-sequence token; 1 reads the whole response.

    Args:
        rewards: Rewards of prefixes, shape `[B, S]`; column i - 1 is that of the first i response tokens.
        response_length: Tokens of each of these responses, shape `[B]`.
        fraction: Above 0 and at most 1.

    Returns:
        Rewards of shape `[B]`.
    """
    read = response_length if fraction == 1 else (fraction * (response_length - 1)).ceil().long().clamp(min=1)
    return rewards.gather(1, read[:, None] - 1)[:, 0]


def share_won(difference: Tensor) -> Tensor:
    """1 where the preferred response has the higher reward, 0 where it has the lower one, 0.5 at a tie.

    Args:
        difference: Its reward minus the rejected response's, of any shape.

    Returns:
        A tensor of the same shape.
    """
    return (difference.sign() + 1) / 2


def accuracy_curve(wins: dict[float, list[float]]) -> dict[str, list[float] | int]:
    """Averages comparisons at each fraction.

    Args:
        wins: For each fraction of the responses, the [`share_won`] of each pair.

    Returns:
        `fraction_read`, `accuracy` and `standard_error` (of the mean over pairs), lists of one length, and `pairs`,
        the number of pairs.
    """
    fractions = sorted(wins)
    pairs = len(wins[fractions[0]])
    accuracy = [sum(wins[fraction]) / pairs for fraction in fractions]
    errors = []
    for fraction, mean in zip(fractions, accuracy, strict=True):
        variance = sum((win - mean) ** 2 for win in wins[fraction]) / max(1, pairs - 1)
        errors.append((variance / pairs) ** 0.5)
    return {"fraction_read": fractions, "accuracy": accuracy, "standard_error": errors, "pairs": pairs}
