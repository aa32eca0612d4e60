"""The loss of value training: the cross-entropy of the histogram at every prefix."""

from __future__ import annotations

import torch
from torch import Tensor

from rgtg_hf.rewards.value_model import soft_value, two_hot

__all__ = ["return_targets", "value_losses", "value_metrics"]

FRACTIONS = (0, 25, 50, 75, 100)
_DEVIATION = 0.75  # of a Gaussian target, in bins


def return_targets(rewards: Tensor, bins: Tensor, kind: str) -> Tensor:
    """The distributions that stand for rewards.

    Args:
        rewards: Shape `[batch]`. For one outside of the bins, as an evaluation may have, the nearest bin stands.
        bins: The return of each bin, shape `[bins]`.
        kind: `"two_hot"` or `"gaussian"`.

    Returns:
        float32, shape `[batch, bins]`.
    """
    rewards = rewards.clamp(bins[0], bins[-1])
    if kind == "two_hot":
        return two_hot(rewards, bins)
    width = bins[1] - bins[0]
    # The mass of a normal distribution within each bin; what lies outside of all bins is shared out.
    edges = torch.cat([bins - width / 2, bins[-1:] + width / 2])
    below = torch.special.ndtr((edges - rewards[..., None]) / (_DEVIATION * width))
    mass = below.diff(dim=-1)
    return mass / mass.sum(-1, keepdim=True)


def value_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Computes the cross-entropy of the return at each prefix: -sum_z target(z) log p(z | x, y_<t).

    The target is the same at every prefix of a response. Its expectation under the policy is the distribution of the
    return, which is therefore what the loss is least at.

    Args:
        logits: Scores of the bins at each position, shape `[batch, length, bins]`.
        targets: Shape `[batch, bins]`.

    Returns:
        float32, shape `[batch, length]`.

    Example:
        ```python
        import torch
        from rgtg_hf.training.value_loss import value_losses

        sure = value_losses(torch.tensor([[[9.0, 0.0]]]), torch.tensor([[1.0, 0.0]]))
        assert sure.shape == (1, 1) and sure < 0.001
        ```
    """
    return -(targets[:, None] * logits.float().log_softmax(-1)).sum(-1)


def value_metrics(logits: Tensor, rewards: Tensor, is_prefix: Tensor, bins: Tensor) -> dict[str, Tensor]:
    """How far the mean of the histogram is from the reward, after parts of each response.

    Args:
        logits: Shape `[batch, length, bins]`.
        rewards: Shape `[batch]`.
        is_prefix: Where prefixes end, bool, shape `[batch, length]`.
        bins: The return of each bin, shape `[bins]`.

    Returns:
        `squared_error_at_0` (after the prompt) to `squared_error_at_100`, each of shape `[batch]`.
    """
    errors = (soft_value(logits, bins, 0.0) - rewards[:, None]).square()
    first = is_prefix.int().argmax(1)
    length = is_prefix.sum(1) - 1
    places = {at: first + (length * at / 100).round().long() for at in FRACTIONS}
    return {f"squared_error_at_{at}": errors.gather(1, place[:, None])[:, 0] for at, place in places.items()}
