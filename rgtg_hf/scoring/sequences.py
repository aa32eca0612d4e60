"""Rewards of token sequences that share their beginnings, such as one text with several endings.

Retokenized text does not grow by one token a step: a new letter can change the last token or add several, by another
number in every row. So the rows are lists of ids, and what the cache holds is moved in place for each row.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rgtg_hf.rewards.prefix_rewards import find_score_head, prefix_rewards
from rgtg_hf.scoring.prefix_cache import PrefixCache, positions_of
from rgtg_hf.scoring.tree_reader import TreeReader

__all__ = ["BranchReader", "SequenceReader", "SharedPrefixReader", "WholeReader"]

_MOST_AT_ONCE = 64  # sequences in a forward pass; it bounds the copies of the cache


class SequenceReader(Protocol):
    """Computes rewards of sequences of the reward model's own token ids."""

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        ...

    def read(self, rows: list[list[list[int]]]) -> Tensor:
        """The reward of each sequence as a whole.

        Args:
            rows: For each row the same number of sequences, none of them empty. Sequences of a row share a
                beginning, as do rows with those of the call before.

        Returns:
            Rewards, float32 on the CPU, shape `[rows, sequences]`.
        """
        ...

    def reset(self) -> None:
        """Forgets everything that was kept."""
        ...


class WholeReader:
    """Every sequence alone, as a whole, without a cache: slow, obvious, and right for every causal architecture.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.reward_model = reward_model
        self.device = next(reward_model.parameters()).device
        self.tokens_computed = 0

    @torch.no_grad()
    def read(self, rows: list[list[list[int]]]) -> Tensor:
        """The reward of each sequence; see `SequenceReader.read`."""
        return torch.tensor([[self._reward(sequence) for sequence in sequences] for sequences in rows])

    def _reward(self, sequence: list[int]) -> float:
        self.tokens_computed += len(sequence)
        ids = torch.tensor([sequence], device=self.device)
        return float(prefix_rewards(self.reward_model, ids, use_cache=False)[0, -1])

    def reset(self) -> None:
        """Does nothing: nothing is kept."""


class BranchReader:
    """What the sequences of a row share is read once, and all their tails in the same forward pass.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label that takes 4-D masks.

    Raises:
        ValueError: If the model has recurrent layers.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.reader = TreeReader(reward_model)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.reader.tokens_computed

    def read(self, rows: list[list[list[int]]]) -> Tensor:
        """The reward of each sequence; see `SequenceReader.read`."""
        trunks = [_common_beginning(sequences) for sequences in rows]
        tails = [
            [sequence[len(trunk) :] for sequence in sequences] for trunk, sequences in zip(trunks, rows, strict=True)
        ]
        return torch.tensor(self.reader.read(trunks, tails))

    def reset(self) -> None:
        """Forgets what was read."""
        self.reader.reset()


class SharedPrefixReader:
    """Keeps the cache of what the sequences of a row share, its trunk, and reads their tails as a padded batch.

    A row of the cache serves every trunk that begins alike. As the trunks of a batch grow by different numbers of
    tokens, the cache's rows are moved so that all of them end in the same column, which left padding requires.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label, without recurrent layers.

    Raises:
        ValueError: If the model has recurrent layers, whose state cannot be cut back to a shorter text.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.cache = PrefixCache(reward_model)
        if self.cache.is_recurrent:
            raise ValueError("A recurrent state cannot be cut back to a shorter text: read whole sequences instead.")
        self.head = find_score_head(reward_model)
        self.trunks: list[list[int]] = []

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.cache.tokens_computed

    @torch.no_grad()
    def read(self, rows: list[list[list[int]]]) -> Tensor:
        """The reward of each sequence; see `SequenceReader.read`."""
        trunks = [_common_beginning(sequences) for sequences in rows]
        rewards: dict[tuple[int, tuple[int, ...]], float] = {
            (row, ()): reward for row, reward in enumerate(self._read_trunks(trunks))
        }
        keys = [
            [(row, tuple(sequence[len(trunks[row]) :])) for sequence in sequences]
            for row, sequences in enumerate(rows)
        ]
        # Equal tails once, and those of like length together, to pad little.
        unread = sorted({key for row_keys in keys for key in row_keys if key[1]}, key=lambda key: len(key[1]))
        for start in range(0, len(unread), _MOST_AT_ONCE):
            some = unread[start : start + _MOST_AT_ONCE]
            rewards |= zip(some, self._read_tails(some), strict=True)
        return torch.tensor([[rewards[key] for key in row_keys] for row_keys in keys])

    def reset(self) -> None:
        """Forgets the cache."""
        self.cache.reset()
        self.trunks = []

    def _read_trunks(self, trunks: list[list[int]]) -> list[float]:
        """Brings the cache up to date; the reward at each trunk's end (of no meaning for an empty one)."""
        longest = max(map(len, trunks))
        if longest == 0:
            self.reset()
            return [0.0] * len(trunks)
        self._keep(trunks, longest)
        self.trunks = trunks
        columns = torch.tensor([[-1] * (longest - len(trunk)) + trunk for trunk in trunks], device=self.cache.device)
        hidden = self.cache.extend(columns)
        return self.head(hidden[:, -1:])[:, 0, 0].float().tolist()

    def _keep(self, trunks: list[list[int]], longest: int) -> None:
        """Moves and crops the cache so that it holds a beginning of the trunks, left-padded."""
        cache = self.cache
        if cache.cache is None or cache.columns is None:
            return
        source, agreed = _longest_common_prefixes(trunks, self.trunks)
        # The last token is always read, for its reward. Rows that would need fewer new tokens than others read a
        # few again: the alternative is padding, at the same price.
        new = max(max(1, len(trunk) - same) for trunk, same in zip(trunks, agreed, strict=True))
        width, held_width = longest - new, cache.columns.shape[1]
        if width <= 0:
            cache.reset()
            return
        shifts = [
            (held_width - len(self.trunks[held])) - (longest - len(trunk))
            for trunk, held in zip(trunks, source, strict=True)
        ]
        if source == list(range(len(self.trunks))) and not any(shifts):
            cache.crop(held_width - width)
        else:
            shift = torch.tensor(shifts, device=cache.device)[:, None]
            places = (torch.arange(width, device=cache.device) + shift).clamp(0, held_width - 1)
            cache.cache = _rearranged(cache.cache, torch.tensor(source, device=cache.device), places)
        cache.columns = cache.columns[:, :0].new_empty(len(trunks), width)  # `extend` only asks for the width

    def _read_tails(self, tails: list[tuple[int, tuple[int, ...]]]) -> list[float]:
        """Reads tails, each on top of its own row of the cache."""
        cache, device = self.cache, self.cache.device
        rows = torch.tensor([row for row, _ in tails], device=device)
        lengths = torch.tensor([len(tail) for _, tail in tails], device=device)
        ids = pad_sequence([torch.tensor(tail) for _, tail in tails], batch_first=True, padding_value=-1).to(device)
        copies: Cache = DynamicCache()
        columns = ids
        if cache.cache is not None and cache.columns is not None:
            copies = _rearranged(cache.cache, rows)
            columns = torch.cat([cache.columns[rows], ids], dim=1)
        hidden = cache.forward(ids, (columns >= 0).long(), positions_of(columns)[:, -ids.shape[1] :], copies)
        last = hidden[torch.arange(len(tails), device=hidden.device), lengths.to(hidden.device) - 1]
        return self.head(last[:, None])[:, 0, 0].float().tolist()


def _common_beginning(sequences: list[list[int]]) -> list[int]:
    lowest, highest = min(sequences), max(sequences)  # what these two share in front, all share
    for length, (one, other) in enumerate(zip(lowest, highest, strict=False)):
        if one != other:
            return lowest[:length]
    return lowest


def _longest_common_prefixes(wanted: list[list[int]], held: list[list[int]]) -> tuple[list[int], list[int]]:
    """For each wanted row the held row that agrees longest (the one in its place, if it does too), and how long."""
    one = pad_sequence([torch.tensor(row, dtype=torch.long) for row in wanted], True, padding_value=-1)
    other = pad_sequence([torch.tensor(row, dtype=torch.long) for row in held], True, padding_value=-2)
    width = min(one.shape[1], other.shape[1])
    agreed = (one[:, None, :width] == other[None, :, :width]).long().cumprod(-1).sum(-1)  # [wanted, held]
    best, source = agreed.max(dim=1)
    for row in range(min(len(wanted), len(held))):
        if agreed[row, row] == best[row]:
            source[row] = row
    return source.tolist(), best.tolist()


def _rearranged(cache: Cache, rows: Tensor, columns: Tensor | None = None) -> Cache:
    """A copy with some rows, and in each row some columns, shape `[rows, columns]`, of the cache."""
    copy = DynamicCache()
    for index, layer in enumerate(cache.layers):
        assert isinstance(layer, DynamicLayer)
        if layer.keys is None or layer.values is None:  # a layer that shares those of another
            continue
        parts = []
        for part in (layer.keys, layer.values):
            on, place = rows.to(part.device), None if columns is None else columns.to(part.device)
            parts.append(part[on] if place is None else part[on[:, None], :, place].transpose(1, 2))
        copy.update(parts[0], parts[1], index)
    return copy
