"""The prefix Bradley-Terry loss and its metrics, as pure functions of tensors.

For a prompt x with a preferred response y_w and a rejected one y_l, every prefix of the two is compared:

    loss = mean over pairs and prefixes i of  -log sigmoid( r(x, y_w[:i]) - r(x, y_l[:i]) )

(Rashid et al., "A Critical Look At Tokenwise Reward-Guided Text Generation", arXiv:2406.07780). The index i counts
response tokens from 1; the end-of-sequence token is the last token of a finished response and so belongs to no
proper prefix. The mean is over all (pair, prefix), as in an expanded data set in which each prefix pair is a separate
example.

Shapes: B pairs make a batch of 2B rows, chosen responses first. S is the padded length of a row in tokens, prompt
included; tensors of prefixes have S columns too (column i - 1 is prefix i), because no response is longer than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rgtg_hf.rewards.pair_accuracy import rewards_at_fraction, share_won

__all__ = [
    "AFTER_END",
    "FRACTIONS",
    "POSITION_WEIGHTS",
    "PREFIXES",
    "align_prefixes",
    "prefix_bradley_terry_loss",
    "prefix_losses",
    "prefix_metrics",
    "prefix_weights",
    "row_seeds",
    "whole_rewards",
]

AFTER_END = ("hold", "drop")
PREFIXES = ("all", "stride", "random")
POSITION_WEIGHTS = ("uniform", "increasing", "decreasing")
FRACTIONS = (0.25, 0.5, 0.75, 1.0)


def align_prefixes(rewards: Tensor, prompt_length: Tensor, response_length: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the rewards of all positions so that column i - 1 is the reward of the first i response tokens.

    All columns past the end of a response hold its last reward.

    Args:
        rewards: Rewards of all positions, shape `[2B, S]`, chosen rows first.
        prompt_length: Tokens before the responses of a pair, shape `[B]`.
        response_length: Tokens of each response, end-of-sequence included, shape `[2B]`; at least 1.

    Returns:
        The rewards of the chosen and of the rejected prefixes, each of shape `[B, S]`. They are float32, or float64
        if the rewards are: differences of half-precision rewards lose what is being learned.
    """
    if rewards.dtype != torch.float64:
        rewards = rewards.float()
    prefix = torch.arange(rewards.shape[1], device=rewards.device)
    last = response_length[:, None] - 1
    index = prompt_length.repeat(2)[:, None] + torch.minimum(prefix, last)
    chosen, rejected = rewards.gather(1, index).chunk(2)
    return chosen, rejected


def prefix_weights(
    response_length: Tensor,
    num_columns: int,
    *,
    after_end: str = "hold",
    prefixes: str = "all",
    prefix_stride: int = 8,
    prefixes_per_pair: int = 8,
    position_weights: str = "uniform",
    shared_length: Tensor | None = None,
    row_seeds: Sequence[int] = (),
) -> Tensor:
    """Computes the weight of each prefix of each pair in the loss.

    Args:
        response_length: Tokens of each response, end-of-sequence included, shape `[2B]`, chosen rows first.
        num_columns: S, the number of columns of the result.
        after_end: `"hold"` compares up to the end of the longer response, the shorter one staying whole (the paper's
            way); `"drop"` stops at the end of the shorter one.
        prefixes: `"all"`; `"stride"` for every `prefix_stride`-th prefix and the last one; `"random"` for
            `prefixes_per_pair` of them, drawn without replacement.
        prefix_stride: Distance in tokens for `"stride"`.
        prefixes_per_pair: Number of prefixes for `"random"`; pairs with fewer use all they have.
        position_weights: `"uniform"`; `"increasing"` weighs prefix i of n by i / n; `"decreasing"` by 1 - (i - 1) / n.
        shared_length: If given, shape `[B]`: the number of first response tokens that both responses share. The
            prefixes that consist of them alone are left out: their rewards are equal, and so is their loss.
        row_seeds: One seed per pair, for `"random"`.

    Returns:
        Weights of shape `[B, S]`, 0 for prefixes that do not count. Every pair has at least one that does.

    Example:
        ```python
        import torch
        from rgtg_hf.training.loss import prefix_weights

        weights = prefix_weights(torch.tensor([3, 2]), num_columns=4)
        assert weights.tolist() == [[1.0, 1.0, 1.0, 0.0]]
        ```
    """
    lengths = response_length.view(2, -1)
    compared = lengths.amax(0) if after_end == "hold" else lengths.amin(0)
    prefix = torch.arange(1, num_columns + 1, device=response_length.device)
    last = prefix == compared[:, None]
    counts = prefix <= compared[:, None]
    if shared_length is not None:
        counts &= (prefix > shared_length[:, None]) | last
    if prefixes == "stride":
        counts &= (prefix % prefix_stride == 0) | last
    elif prefixes == "random":
        counts &= _draw(counts, prefixes_per_pair, row_seeds)

    weights = counts.float()
    if position_weights == "increasing":
        weights = weights * prefix / compared[:, None]
    elif position_weights == "decreasing":
        weights = weights * (1 - (prefix - 1) / compared[:, None]).clamp(min=0)
    return weights


def row_seeds(input_ids: Tensor, attention_mask: Tensor, seed: int, step: int) -> list[int]:
    """Makes the seeds for drawing prefixes from the run's seed, the step and the tokens alone.

    So the prefixes drawn from a pair are the same on any number of processes, in any batch, and in a resumed run.

    Args:
        input_ids: Shape `[2B, S]`, chosen rows first.
        attention_mask: Shape `[2B, S]`.
        seed: The run's seed.
        step: The number of steps done.

    Returns:
        One seed for each of the B pairs.
    """
    place = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
    checksums = (input_ids * attention_mask * place).sum(1).view(2, -1).sum(0).tolist()
    return [hash((seed, step, checksum)) for checksum in checksums]


def _draw(counts: Tensor, number: int, row_seeds: Sequence[int]) -> Tensor:
    """Marks `number` of the true entries of each row, which depend on the row's seed alone, not on its batch."""
    noise = torch.stack(
        [torch.rand(counts.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in row_seeds]
    ).to(counts.device)
    kept = noise.masked_fill(~counts, -1.0).topk(min(number, counts.shape[1]), dim=1).indices
    return torch.zeros_like(counts).scatter_(1, kept, True)


def prefix_losses(
    chosen: Tensor,
    rejected: Tensor,
    *,
    margin: Tensor | None = None,
    center_rewards_coefficient: float | None = None,
) -> Tensor:
    """Computes the Bradley-Terry loss of each prefix pair: -log sigmoid(chosen - rejected - margin).

    Args:
        chosen: Rewards of the chosen prefixes, shape `[B, S]`, see [`align_prefixes`].
        rejected: Rewards of the rejected prefixes, shape `[B, S]`.
        margin: The reward difference by which the chosen response should win, shape `[B]`. It holds at every prefix of
            the pair.
        center_rewards_coefficient: If given, adds this times (chosen + rejected)^2, which keeps rewards near zero
            (Eisenstein et al., arXiv:2312.09244, equation 2).

    Returns:
        Losses of shape `[B, S]`.
    """
    difference = chosen - rejected
    if margin is not None:
        difference = difference - margin[:, None]
    losses = -F.logsigmoid(difference)
    if center_rewards_coefficient is not None:
        losses = losses + center_rewards_coefficient * (chosen + rejected) ** 2
    return losses


def prefix_bradley_terry_loss(
    chosen: Tensor, rejected: Tensor, weights: Tensor | None = None, **options: Any
) -> Tensor:
    """Computes the prefix Bradley-Terry loss of a batch: the weighted mean of [`prefix_losses`].

    Args:
        chosen: Rewards of the chosen prefixes, shape `[B, S]`, see [`align_prefixes`].
        rejected: Rewards of the rejected prefixes, shape `[B, S]`.
        weights: How much each prefix counts, shape `[B, S]`, see [`prefix_weights`]. Defaults to 1 for all.
        options: `margin` and `center_rewards_coefficient`, see [`prefix_losses`].

    Returns:
        The loss, a scalar tensor.

    Example:
        ```python
        import torch
        from rgtg_hf.training.loss import prefix_bradley_terry_loss

        chosen, rejected = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, -1.0]])
        loss = prefix_bradley_terry_loss(chosen, rejected)
        assert torch.isclose(loss, (torch.log(torch.tensor(2.0)) + torch.log1p(torch.exp(torch.tensor(-2.0)))) / 2)
        ```
    """
    losses = prefix_losses(chosen, rejected, **options)
    return losses.mean() if weights is None else (weights * losses).sum() / weights.sum()


def prefix_metrics(
    chosen: Tensor,
    rejected: Tensor,
    response_length: Tensor,
    *,
    fractions: Sequence[float] = FRACTIONS,
    counted: Tensor | None = None,
) -> dict[str, Tensor]:
    """Computes accuracy and margin of each pair, over all its prefixes and at fractions of the responses.

    Accuracy is the share of comparisons that the chosen side wins, a tie counting half (prefixes that both responses
    share are ties). Margin is chosen reward minus rejected reward. At a fraction, each response is read up to that
    fraction of its own length.

    Args:
        chosen: Rewards of the chosen prefixes, shape `[B, S]`.
        rejected: Rewards of the rejected prefixes, shape `[B, S]`.
        response_length: Tokens of each response, shape `[2B]`, chosen rows first.
        fractions: The fractions reported, each above 0 and at most 1.
        counted: Which prefixes count for `accuracy` and `margin`, shape `[B, S]`. Defaults to all up to the end of
            the longer response.

    Returns:
        Tensors of shape `[B]`, named `accuracy`, `margin`, and for each fraction in percent `accuracy_at_25`,
        `margin_at_25` and so on.
    """
    counts = prefix_weights(response_length, chosen.shape[1]) if counted is None else counted.float()
    difference = chosen - rejected
    metrics = {
        "accuracy": (share_won(difference) * counts).sum(1) / counts.sum(1),
        "margin": (difference * counts).sum(1) / counts.sum(1),
    }
    chosen_length, rejected_length = response_length.chunk(2)
    for fraction in fractions:
        difference = rewards_at_fraction(chosen, chosen_length, fraction) - rewards_at_fraction(
            rejected, rejected_length, fraction
        )
        metrics[f"accuracy_at_{round(100 * fraction)}"] = share_won(difference)
        metrics[f"margin_at_{round(100 * fraction)}"] = difference
    return metrics


def whole_rewards(chosen: Tensor, rejected: Tensor, response_length: Tensor) -> dict[str, Tensor]:
    """Finds the rewards of whole responses: `chosen_reward` and `rejected_reward`, each of shape `[B]`."""
    chosen_length, rejected_length = response_length.chunk(2)
    return {
        "chosen_reward": rewards_at_fraction(chosen, chosen_length, 1),
        "rejected_reward": rewards_at_fraction(rejected, rejected_length, 1),
    }
