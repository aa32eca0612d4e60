"""Readers of retokenized text: rewards of sequences that share a beginning, such as one text with several endings.

Retokenized text does not grow by one token per step: a new letter can change the last token or add several, and a
different number in every row. So rows are lists of ids, and the cache is moved in place for each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Protocol

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache, PreTrainedModel

from rgtg_hf.rewards.prefix_rewards import find_score_head
from rgtg_hf.scoring.prefix_cache import PrefixCache, positions_of, rearrange_cache
from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.row_reader import RowReader, padded

__all__ = ["SequenceReader", "SharedPrefixReader", "SiblingReader", "WholeReader", "common_length"]

_MOST_AT_ONCE = 64  # sequences in a forward pass; it bounds the copies of the cache


class SequenceReader(Protocol):
    """Computes rewards of sequences of the reward model's own token ids.

    The fastest one is the [`SiblingReader`][rgtg_hf.scoring.sequences.SiblingReader].
    """

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        ...

    def read(self, prefixes: list[list[int]], continuations: list[list[list[int]]]) -> list[list[float]]:
        """Computes the reward at the end of each continuation.

        Args:
            prefixes: The beginning that the sequences of a row share. Rows share beginnings with those of the call
                before.
            continuations: For each row the rest of each sequence; the empty one stands for the prefix itself. Of a row
                without continuations no reward is wanted.

        Returns:
            The rewards, in the shape of `continuations`.
        """
        ...

    def reset(self) -> None:
        """Forgets everything that was kept."""
        ...


class WholeReader:
    """Every sequence as a whole, without a cache: slow, obvious, and right for every causal architecture.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.reference = ReferenceScorer(reward_model)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.reference.tokens_computed

    def read(self, prefixes: list[list[int]], continuations: list[list[list[int]]]) -> list[list[float]]:
        """Computes rewards; see `SequenceReader.read`."""
        return [
            self.reference.rewards([prefix] * len(own), own)
            for prefix, own in zip(prefixes, continuations, strict=True)
        ]

    def reset(self) -> None:
        """Does nothing: nothing is kept."""


class SiblingReader:
    """All continuations in one forward pass, as siblings that share the cached prefix.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label that takes 4-D masks.

    Raises:
        ValueError: If the model has recurrent layers.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.rows = RowReader(reward_model)
        self.head = find_score_head(reward_model)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.rows.tokens_computed

    @torch.no_grad()
    def read(self, prefixes: list[list[int]], continuations: list[list[list[int]]]) -> list[list[float]]:
        """Computes rewards; see `SequenceReader.read`."""
        if not any(continuations):
            return [[] for _ in prefixes]
        tokens: list[list[int]] = []
        starts: list[list[int]] = []
        ends: list[dict[tuple[int, ...], int]] = []  # where each continuation ends; the prefix does at -1
        for own in continuations:
            different = [one for one in dict.fromkeys(map(tuple, own)) if one]
            lasts = list(accumulate(map(len, different)))
            tokens.append(list(chain(*different)))
            starts.append([last - len(one) for one, last in zip(different, lasts, strict=True) for _ in one])
            ends.append({(): -1} | {one: last - 1 for one, last in zip(different, lasts, strict=True)})
        device = self.rows.backbone.device
        ids, lengths = padded(prefixes, device)
        new, counts = padded(tokens, device)
        order = torch.arange(new.shape[1], device=device)
        first = torch.where(order < counts[:, None], padded(starts, device)[0], order)
        ahead = max(len(one) for own in continuations for one in own)
        hidden = self.rows.read(ids, lengths, new, first, ahead=ahead)
        rewards = self.head(hidden)[..., 0].float().tolist()
        return [
            [row[1 + places[tuple(one)]] for one in own]
            for row, places, own in zip(rewards, ends, continuations, strict=True)
        ]

    def reset(self) -> None:
        """Forgets the cache."""
        self.rows.reset()


class SharedPrefixReader:
    """Keeps the cache of the prefixes, and reads the continuations as a padded batch on top of copies of it.

    A row of the cache serves every prefix that begins alike. As the prefixes of a batch grow by different numbers of
    tokens, the rows of the cache are moved so that all of them end in the same column, which left padding requires.
    The last token of each prefix is always read, also in rows without continuations.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label, without recurrent layers.

    Raises:
        ValueError: If the model has recurrent layers, whose state cannot be cropped to a shorter text.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.cache = PrefixCache(reward_model)
        if self.cache.is_recurrent:
            raise ValueError("A recurrent state cannot be cropped to a shorter text: read whole sequences instead.")
        self.head = find_score_head(reward_model)
        self.prefixes: list[list[int]] = []

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.cache.tokens_computed

    @torch.no_grad()
    def read(self, prefixes: list[list[int]], continuations: list[list[list[int]]]) -> list[list[float]]:
        """Computes rewards; see `SequenceReader.read`."""
        if not any(continuations):
            return [[] for _ in prefixes]
        rewards: dict[tuple[int, tuple[int, ...]], float] = {
            (row, ()): reward for row, reward in enumerate(self._read_prefixes(prefixes))
        }
        keys = [[(row, tuple(one)) for one in own] for row, own in enumerate(continuations)]
        # Equal ones once, and those of similar length together, for little padding.
        unread = sorted({key for own in keys for key in own if key[1]}, key=lambda key: len(key[1]))
        for start in range(0, len(unread), _MOST_AT_ONCE):
            some = unread[start : start + _MOST_AT_ONCE]
            rewards |= zip(some, self._read_continuations(some), strict=True)
        return [[rewards[key] for key in own] for own in keys]

    def reset(self) -> None:
        """Forgets the cache."""
        self.cache.reset()
        self.prefixes = []

    def _read_prefixes(self, prefixes: list[list[int]]) -> list[float]:
        """Brings the cache up to date; the reward at each prefix's end (without meaning for an empty one)."""
        longest = max(map(len, prefixes))
        if self.cache.backbone.state.has_changed(thorough=True):
            self.reset()
        if longest == 0:
            self.reset()
            return [0.0] * len(prefixes)
        self._keep(prefixes, longest)
        self.prefixes = prefixes
        columns = torch.tensor(
            [[-1] * (longest - len(prefix)) + prefix for prefix in prefixes], device=self.cache.device
        )
        hidden = self.cache.extend(columns)
        return self.head(hidden[:, -1:])[:, 0, 0].float().tolist()

    def _keep(self, prefixes: list[list[int]], longest: int) -> None:
        """Moves and crops the cache so that it holds a beginning of the prefixes, left-padded."""
        cache = self.cache
        if cache.cache is None or cache.columns is None:
            return
        found = [_longest_match(row, prefix, self.prefixes) for row, prefix in enumerate(prefixes)]
        source, agreed = (list(part) for part in zip(*found, strict=True))
        # The last token is always read, for its reward. Rows that would need fewer new tokens than others read a
        # few again: the alternative is padding, at the same price.
        new = max(max(1, len(prefix) - same) for prefix, same in zip(prefixes, agreed, strict=True))
        width, held_width = longest - new, cache.columns.shape[1]
        if width <= 0:
            cache.reset()
            return
        shifts = [
            (held_width - len(self.prefixes[held])) - (longest - len(prefix))
            for prefix, held in zip(prefixes, source, strict=True)
        ]
        if source == list(range(len(self.prefixes))) and not any(shifts):
            cache.crop(held_width - width)
        else:
            shift = torch.tensor(shifts, device=cache.device)[:, None]
            places = (torch.arange(width, device=cache.device) + shift).clamp(0, held_width - 1)
            cache.cache = rearrange_cache(cache.cache, torch.tensor(source, device=cache.device), places)
        cache.columns = cache.columns[:, :0].new_empty(len(prefixes), width)  # `extend` only asks for the width

    def _read_continuations(self, continuations: list[tuple[int, tuple[int, ...]]]) -> list[float]:
        """Reads continuations, each on top of its own copy of a row of the cache."""
        cache, device = self.cache, self.cache.device
        rows = torch.tensor([row for row, _ in continuations], device=device)
        lengths = torch.tensor([len(one) for _, one in continuations], device=device)
        parts = [torch.tensor(one) for _, one in continuations]
        ids = pad_sequence(parts, batch_first=True, padding_value=-1).to(device)
        copies: Cache = DynamicCache()
        columns = ids
        if cache.cache is not None and cache.columns is not None:
            copies = rearrange_cache(cache.cache, rows)
            columns = torch.cat([cache.columns[rows], ids], dim=1)
        hidden = cache.forward(ids, (columns >= 0).long(), positions_of(columns)[:, -ids.shape[1] :], copies)
        last = hidden[torch.arange(len(rows), device=hidden.device), lengths.to(hidden.device) - 1]
        return self.head(last[:, None])[:, 0, 0].float().tolist()


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences share at the beginning."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # all before `low` are equal, not all before `high`
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low


def _longest_match(row: int, prefix: list[int], held: list[list[int]]) -> tuple[int, int]:
    """The held row that shares the longest beginning with a prefix, preferably the same row, and how long that is."""
    if row < len(held) and held[row] and prefix[: len(held[row])] == held[row]:
        return row, len(held[row])  # as it is at most steps
    agreed = [common_length(one, prefix) for one in held]
    longest = max(agreed, default=0)
    return (row if row < len(agreed) and agreed[row] == longest else [*agreed, 0].index(longest)), longest
