"""The protocol of scorers: the one hinge between reward models and decoding."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

__all__ = ["CandidateRewards", "PrefixBatch", "Scorer"]


class PrefixBatch(NamedTuple):
    """The prefixes of one decoding step.

    Attributes:
        input_ids: Prefixes x, y_<t, left-padded, int64, shape `[rows, length]`.
        attention_mask: 1 for tokens, 0 for the padding on the left, int64, shape `[rows, length]`.
        prompt_length: How many leading columns are the prompt x (padding included); the rest is the response.
        base_length: How many leading columns make up the prefix whose reward is the base; `length` for the whole
            prefix, less where steps were skipped. Between 1 and `length`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompt_length: int
    base_length: int
    wanted: Tensor | None = None

    def select(self, rows: Tensor) -> PrefixBatch:
        """The same step for some of the rows, given as indices or as a boolean mask."""
        return self._replace(
            input_ids=self.input_ids[rows],
            attention_mask=self.attention_mask[rows],
            wanted=None if self.wanted is None else self.wanted[rows],
        )


class CandidateRewards(NamedTuple):
    """Rewards of one decoding step.

    Attributes:
        candidates: r(x, y_<t v) of every candidate v, float32, shape `[rows, k]`.
        base: The reward that the candidates' rewards are measured from, r(x, y_<t) unless steps were skipped,
            float32, shape `[rows]`. It is constant within a row, so it moves no choice between candidates of a row.
    """

    candidates: Tensor
    base: Tensor


class Scorer(Protocol):
    """Computes the rewards of candidate tokens after the current prefixes.

    A scorer may keep what it has computed, but never trusts a row number or a step counter: whatever it kept is found
    again by comparing token ids, since `generate()` permutes beams, drops drafts and starts anew without notice.
    """

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        ...

    @property
    def vocabulary_size(self) -> int | None:
        """How many token ids of the policy it can read; `None` for any, as where rewards go through text."""
        ...

    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor) -> CandidateRewards:
        """Scores candidate next tokens, int64, shape `[rows, k]`. The rewards are on the device of `candidate_ids`."""
        ...

    def reset(self) -> None:
        """Forgets everything that was kept."""
        ...
