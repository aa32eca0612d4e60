"""Several rewards at once, as a weighted sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rgtg_hf.arguments import is_finite, own_number, shown
from rgtg_hf.scoring.scorer import PrefixBatch, Scorer

__all__ = ["CombinedScorer"]


class CombinedScorer:
    """The weighted sum of other scorers' increments, so that r(x, y) = sum_i w_i r_i(x, y).

    Rewards are used in the units of their models. A negative weight steers away from the text that its model prefers.

    Args:
        scorers: The scorers, at least one.
        weights: A number for each. Defaults to 1 for all.

    Raises:
        ValueError: If there is no scorer, a weight is not finite, or their number is not that of the scorers.
        TypeError: If a weight is not a number.

    Example:
        ```python
        from rgtg_hf.scoring.choose import choose_scorer
        from rgtg_hf.scoring.combined import CombinedScorer

        scorer = CombinedScorer([choose_scorer(helpful), choose_scorer(toxic)], weights=[1.0, -0.5])
        increments = scorer.score(prefixes, candidate_ids)
        ```
    """

    def __init__(self, scorers: Sequence[Scorer], weights: Sequence[float] | None = None):
        self.scorers = list(scorers)
        self.weights = check_weights(weights, len(self.scorers))

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, of all scorers, padding included."""
        return sum(scorer.tokens_computed for scorer in self.scorers)

    @property
    def vocabulary_size(self) -> int | None:
        """How many of the policy's token ids all scorers can read; `None` where all go through text."""
        sizes = [scorer.vocabulary_size for scorer in self.scorers]
        return min((size for size in sizes if size is not None), default=None)

    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Computes increments; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        weighted = [
            weight * scorer.score(prefixes, candidate_ids, wanted)
            for weight, scorer in zip(self.weights, self.scorers, strict=True)
        ]
        return torch.stack(weighted).sum(0)

    def rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
        """Computes rewards; see [`Scorer.rewards`][rgtg_hf.scoring.scorer.Scorer.rewards]."""
        parts = [scorer.rewards(prompts, responses) for scorer in self.scorers]
        return [
            sum(weight * reward for weight, reward in zip(self.weights, own, strict=True))
            for own in zip(*parts, strict=True)
        ]

    def reset(self) -> None:
        """Resets all scorers."""
        for scorer in self.scorers:
            scorer.reset()


def check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights of `count` reward models, 1 each by default. Raises an error that says which one is wrong."""
    if count == 0:
        raise ValueError("`reward_model` is an empty list, but at least one reward model is required.")
    if weights is None:
        return [1.0] * count
    if isinstance(weights, (int, float, str)) or not isinstance(weights, Sequence):
        raise TypeError(f"`weights` is {weights!r}, but a list of numbers is required, one for each reward model.")
    if len(weights) != count:
        raise ValueError(
            f"`weights` has {len(weights)} numbers for {count} reward models, but one for each is required."
        )
    weights = [own_number(weight) for weight in weights]
    for weight in weights:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise TypeError(f"`weights` holds {weight!r}, but a number is required for each reward model.")
        if not is_finite(weight):
            raise ValueError(
                f"`weights` holds {shown(weight)}, but a finite number is required for each reward model."
            )
    return [float(weight) for weight in weights]
