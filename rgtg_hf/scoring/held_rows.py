"""The bookkeeping of siblings, in plain Python: the tokens that are held of a row, and those that it has to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["HeldRow", "HeldTokens", "NewTokens", "common_length", "longest_match"]


@dataclass
class HeldTokens:
    """Consecutive tokens that were read, with their places in the cache and the reward (or its source) at each."""

    tokens: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    rewards: list[Any] = field(default_factory=list)

    def append(self, other: HeldTokens, count: int) -> None:
        """Adds the first tokens of another run at the end."""
        self.tokens += other.tokens[:count]
        self.places += other.places[:count]
        self.rewards += other.rewards[:count]

    def cut(self, length: int) -> list[int]:
        """Drops the tokens beyond a length and returns the places that they leave."""
        freed = self.places[length:]
        del self.tokens[length:], self.places[length:], self.rewards[length:]
        return freed


@dataclass
class HeldRow:
    """One row: its prefix, the continuations that were read last, and the places below `top` that hold nothing."""

    prefix: HeldTokens = field(default_factory=HeldTokens)
    continuations: list[HeldTokens] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    top: int = 0

    def copy(self) -> HeldRow:
        """A row that can change without this one."""
        held = self.prefix
        return HeldRow(
            HeldTokens(list(held.tokens), list(held.places), list(held.rewards)),
            list(self.continuations),
            list(self.free),
            self.top,
        )

    def take_places(self, count: int) -> list[int]:
        """Takes free places, the lowest first."""
        taken, self.free = self.free[:count], self.free[count:]
        missing = count - len(taken)
        self.top += missing
        return taken + list(range(self.top - missing, self.top))

    def release(self, places: list[int]) -> None:
        """Frees places."""
        self.free = sorted(self.free + places)
        while self.free and self.free[-1] == self.top - 1:
            self.top = self.free.pop()

    def follow(self, wanted: list[int]) -> None:
        """Cuts the prefix back to what it shares with the wanted one, or extends it by a continuation."""
        held = self.prefix
        same = common_length(held.tokens, wanted)
        kept = 0
        best = HeldTokens()
        if same == len(held.tokens):
            ahead = wanted[same:]
            for continuation in self.continuations:
                if (agreed := common_length(continuation.tokens, ahead)) > kept:
                    best, kept = continuation, agreed
        places = {place for continuation in self.continuations for place in continuation.places}  # they may share some
        self.release([*held.cut(same), *places.difference(best.places[:kept])])
        held.append(best, kept)
        self.continuations = []


class NewTokens:
    """The tokens that a row has to read: the rest of its prefix, then its continuations, shared beginnings only once.

    Attributes:
        ids: Tokens, each before those that continue it.
        positions: Their positions in the text.
        ends: For each token the index at which those that continue it end.
        paths: For each continuation the indices of its tokens.
    """

    def __init__(self, prefix: list[int], start: int, continuations: list[tuple[int, ...]]):
        self.ids = prefix[start:]
        self.positions = list(range(start, len(prefix)))
        self.paths: dict[tuple[int, ...], list[int]] = {}
        self.ends = [0] * len(self.ids)
        last: tuple[int, ...] = ()
        path: list[int] = []
        for continuation in sorted(continuations):  # so that those that begin alike are neighbours
            shared = common_length(last, continuation)
            for index in path[shared:]:
                self.ends[index] = len(self.ids)
            path = path[:shared]
            for depth in range(shared, len(continuation)):
                path.append(len(self.ids))
                self.ids.append(continuation[depth])
                self.positions.append(len(prefix) + depth)
                self.ends.append(0)
            self.paths[continuation], last = list(path), continuation
        self.ends = [end or len(self.ids) for end in self.ends]

    def padded(self, width: int) -> list[list[int]]:
        """Ids, positions and ends, followed by padding that sees only itself."""
        missing = range(len(self.ids), width)
        return [
            [*self.ids, *(-1 for _ in missing)],
            [*self.positions, *(0 for _ in missing)],
            [*self.ends, *(index + 1 for index in missing)],
        ]


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences share at the beginning."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # all before `low` are equal, not all before `high`
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low


def longest_match(row: int, prefix: list[int], held: list[list[int]]) -> tuple[int, int]:
    """The held row that shares the longest beginning with a prefix, preferably the same row, and how long that is."""
    if row < len(held) and held[row] and prefix[: len(held[row])] == held[row]:
        return row, len(held[row])  # as it is at most steps
    agreed = [common_length(one, prefix) for one in held]
    longest = max(agreed, default=0)
    return (row if row < len(agreed) and agreed[row] == longest else [*agreed, 0].index(longest)), longest
