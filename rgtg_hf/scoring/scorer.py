"""The interface between reward models and decoding: prefixes and candidates go in, increments come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["HostRow", "PrefixBatch", "Scorer", "place_increments"]


class HostRow(NamedTuple):
    """One row of a step, as Python lists.

    Attributes:
        prompt: Token ids of the prompt, without padding.
        response: Token ids of the response so far.
        candidates: The candidates whose increments are wanted.
        columns: Where they stand among the candidates of the row.
    """

    prompt: list[int]
    response: list[int]
    candidates: list[int]
    columns: list[int]

    @property
    def prefix(self) -> list[int]:
        """Token ids of prompt and response."""
        return self.prompt + self.response


class PrefixBatch(NamedTuple):
    """The prefixes of one decoding step.

    Attributes:
        input_ids: Prefixes x, y_<t, left-padded, int64, shape `[rows, length]`.
        attention_mask: 1 for tokens, 0 for the padding on the left, int64, shape `[rows, length]`.
        prompt_length: How many leading columns are the prompt x (padding included); the rest is the response.
    """

    input_ids: Tensor
    attention_mask: Tensor
    prompt_length: int

    def without_padding(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """The rows moved to the left edge.

        Args:
            device: Where they go. Defaults to where they are.

        Returns:
            Token ids with -1 behind the end of each row, shape `[rows, length]`, and their number, shape `[rows]`.
        """
        ids, mask = (part.to(device) for part in (self.input_ids, self.attention_mask))
        order, lengths = torch.arange(ids.shape[1], device=ids.device), mask.sum(-1)
        columns = (order + (ids.shape[1] - lengths)[:, None]).clamp(max=ids.shape[1] - 1)
        return ids.gather(1, columns).masked_fill(order >= lengths[:, None], -1), lengths

    def on_host(self, candidate_ids: Tensor, wanted: Tensor | None) -> list[HostRow]:
        """Copies a step to the host, all at once.

        Args:
            candidate_ids: Candidates of each row, shape `[rows, k]`.
            wanted: The candidates to keep, shape `[rows, k]`; `None` for all.
        """
        length, k = self.input_ids.shape[1], candidate_ids.shape[1]
        asked = torch.ones_like(candidate_ids) if wanted is None else wanted
        parts = (self.input_ids, self.attention_mask, candidate_ids, asked)
        rows = []
        for row in torch.cat([part.to(candidate_ids) for part in parts], dim=1).tolist():
            real = [column for column in range(length) if row[length + column]]
            prompt = [row[column] for column in real if column < self.prompt_length]
            response = [row[column] for column in real if column >= self.prompt_length]
            columns = [column for column in range(k) if row[2 * length + k + column]]
            rows.append(HostRow(prompt, response, [row[2 * length + column] for column in columns], columns))
        return rows


class Scorer(Protocol):
    """Computes the increments of candidate tokens after the current prefixes.

    A scorer may keep what it has computed, but it never trusts a row number or a step counter. It finds what it kept
    by comparing token ids, because `generate()` permutes beams, drops drafts and starts over without notice.
    """

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        ...

    @property
    def vocabulary_size(self) -> int | None:
        """How many token ids of the policy it can read; `None` for any, as where rewards go through text."""
        ...

    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Computes r(x, y_<t v) - r(x, y_<t) for each candidate v.

        Args:
            prefixes: The current prefixes.
            candidate_ids: Candidates of each row, int64, shape `[rows, k]`.
            wanted: The increments to compute, bool, shape `[rows, k]`; all of them by default. Entries that are not
                wanted are 0. Their candidates and rows may be read along with others, or lie behind and catch up when
                they are read next. Where nothing is wanted, nothing is read.

        Returns:
            Increments on the device of `candidate_ids`, float32, shape `[rows, k]`.
        """
        ...

    def rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
        """Computes r(x, y_<t) of prefixes, as a search asks for them after each block.

        Args:
            prompts: Token ids of each prompt x, without padding.
            responses: Token ids of each response so far; of any lengths.

        Returns:
            One reward per prefix. Only differences between prefixes of one prompt have a meaning.
        """
        ...

    def reset(self) -> None:
        """Forgets everything that was kept."""
        ...


def place_increments(
    rewards: Sequence[Sequence[float]], columns: Sequence[Sequence[int]], candidate_ids: Tensor
) -> Tensor:
    """Turns rewards into increments, and puts them where their candidates stand.

    Args:
        rewards: For each row the reward of the prefix, then those with each wanted candidate; empty where none is
            wanted.
        columns: For each row the columns of its wanted candidates.
        candidate_ids: The candidates, shape `[rows, k]`.

    Returns:
        Increments on the device of `candidate_ids`, 0 where not wanted, float32, shape `[rows, k]`.
    """
    increments = [[0.0] * candidate_ids.shape[1] for _ in rewards]
    for row, own, places in zip(increments, rewards, columns, strict=True):
        for column, reward in zip(places, own[1:], strict=True):
            row[column] = reward - own[0]
    return torch.tensor(increments, dtype=torch.float32, device=candidate_ids.device)
