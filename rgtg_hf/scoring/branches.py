"""What a tree of texts is made of, in plain Python: the tokens that are held of a row, and those it has to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Block", "Row", "Run", "common_length"]


@dataclass
class Run:
    """Some consecutive tokens that were read, and the reward (or what stands for it) at each."""

    tokens: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    rewards: list[Any] = field(default_factory=list)

    def take_over(self, other: Run, count: int) -> None:
        """Goes on with the first tokens of another run."""
        self.tokens += other.tokens[:count]
        self.slots += other.slots[:count]
        self.rewards += other.rewards[:count]

    def cut(self, length: int) -> list[int]:
        """Drops what is beyond a length; the slots that are free then."""
        freed = self.slots[length:]
        del self.tokens[length:], self.slots[length:], self.rewards[length:]
        return freed


@dataclass
class Row:
    """What is held of a row: its trunk, the tails that were read last, and the slots below `top` that hold nothing."""

    trunk: Run = field(default_factory=Run)
    tails: list[Run] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    top: int = 0

    def copy(self) -> Row:
        """A row to go on from beside this one."""
        return Row(
            Run(list(self.trunk.tokens), list(self.trunk.slots), list(self.trunk.rewards)),
            list(self.tails),
            list(self.free),
            self.top,
        )

    def take_slots(self, count: int) -> list[int]:
        """Takes free slots, the lowest first."""
        taken, self.free = self.free[:count], self.free[count:]
        missing = count - len(taken)
        self.top += missing
        return taken + list(range(self.top - missing, self.top))

    def release(self, slots: list[int]) -> None:
        """Frees slots."""
        self.free = sorted(self.free + slots)
        while self.free and self.free[-1] == self.top - 1:
            self.top = self.free.pop()

    def go_on(self, wanted: list[int]) -> None:
        """Cuts the trunk back to what agrees with the wanted one, or lengthens it by what agrees of a tail."""
        held = self.trunk
        same = common_length(held.tokens, wanted)
        kept = 0
        best = Run()
        if same == len(held.tokens):
            ahead = wanted[same:]
            for tail in self.tails:
                if (agreed := common_length(tail.tokens, ahead)) > kept:
                    best, kept = tail, agreed
        slots = {slot for tail in self.tails for slot in tail.slots}  # tails may share some
        self.release([*held.cut(same), *slots.difference(best.slots[:kept])])
        held.take_over(best, kept)
        self.tails = []


class Block:
    """What a row has to read: the rest of its trunk, then its tails as a tree, what they share only once.

    Attributes:
        ids: Tokens, each before those that stand behind it.
        positions: Their positions.
        ends: For each token where in the block those end that stand behind it.
        paths: For each tail the places of its tokens in the block.
    """

    def __init__(self, trunk: list[int], start: int, tails: list[tuple[int, ...]]):
        self.ids = trunk[start:]
        self.positions = list(range(start, len(trunk)))
        self.paths: dict[tuple[int, ...], list[int]] = {}
        self.ends = [0] * len(self.ids)
        last: tuple[int, ...] = ()
        path: list[int] = []
        for tail in sorted(tails):  # tails that begin alike are neighbours then
            shared = common_length(last, tail)
            for place in path[shared:]:
                self.ends[place] = len(self.ids)
            path = path[:shared]
            for depth in range(shared, len(tail)):
                path.append(len(self.ids))
                self.ids.append(tail[depth])
                self.positions.append(len(trunk) + depth)
                self.ends.append(0)
            self.paths[tail], last = list(path), tail
        self.ends = [end or len(self.ids) for end in self.ends]

    def padded(self, width: int) -> list[list[int]]:
        """Ids, positions and ends, with padding that sees itself alone behind them."""
        missing = range(len(self.ids), width)
        return [
            [*self.ids, *(-1 for _ in missing)],
            [*self.positions, *(0 for _ in missing)],
            [*self.ends, *(place + 1 for place in missing)],
        ]


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows share in front."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # all before `low` are equal, not all before `high`
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low
