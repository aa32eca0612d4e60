"""Rewards of texts that branch: for each row a trunk and some tails behind it, all in one forward pass.

The tails follow the trunk in one sequence. A 4-D mask lets each token see the trunk and its own tail but no other, and
its position is what it would be alone: the model computes for each tail what it would compute without the others.

What was read is found again by comparing token ids. A row goes on from the tail that became part of its trunk, which
is not read again; rows may lie behind, and catch up when they are read next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rgtg_hf.rewards.prefix_rewards import find_score_head
from rgtg_hf.scoring.backbone import Backbone
from rgtg_hf.scoring.branches import Block, Row, Run, common_length
from rgtg_hf.scoring.slots import SlotCache

__all__ = ["TreeReader"]

# Up to so many tokens of a trunk are read in the same pass as the tails. More (a prompt) go first in a pass of their
# own, which computes less for padding where rows differ.
_LARGEST_JOINT_READ = 16


class TreeReader:
    """Reads trunks and tails with a causal reward model and keeps what can be used again.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label that takes 4-D masks
            (attention by sdpa or eager), without recurrent layers.

    Raises:
        ValueError: If the model has recurrent layers, whose state branches cannot share.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.backbone = Backbone(reward_model)
        if self.backbone.is_recurrent:
            raise ValueError("Branches cannot share a recurrent state: use the expand scorer, or whole sequences.")
        self.head = find_score_head(reward_model)
        config = self.backbone.config
        window = getattr(config, "sliding_window", None)
        layer_types = set(getattr(config, "layer_types", None) or ())
        # A model without a list of layer types has one kind of layer: windowed where it names a window.
        self.windows: dict[str, int | None] = {
            kind: window if kind == "sliding_attention" else None
            for kind in layer_types or {"sliding_attention" if window else "full_attention"}
        }
        self.reset()

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.backbone.tokens_computed

    def reset(self) -> None:
        """Forgets everything."""
        self.rows: list[Row] = []
        self.cache = SlotCache()
        # The index in its trunk of the token that a slot holds, -1 for none, shape [rows, slots].
        self.places = torch.empty(0, 0, dtype=torch.long, device=self.backbone.device)

    # Tensors made in inference mode could not be written to outside of it, in a later call.
    @torch.inference_mode(False)
    @torch.no_grad()
    def read(self, trunks: list[list[int]], tails: list[list[list[int]]]) -> list[list[float]]:
        """The reward at each tail's end.

        Args:
            trunks: The reward model's token ids of each row.
            tails: For each row the tails whose rewards are wanted; the empty tail stands for the trunk itself. A row
                without tails is not read.

        Returns:
            The rewards, in the shape of `tails`.
        """
        self._find(trunks)
        return self._complete(range(len(trunks)), trunks, tails)

    @torch.inference_mode(False)
    @torch.no_grad()
    def read_rows(self, rows: list[int], trunks: list[list[int]], tails: list[list[list[int]]]) -> list[list[Any]]:
        """The same for some rows that the caller names, each of which goes on from what is held of itself.

        Where rows come and go one by one, as in a server, nothing is moved for it: other rows stay as they are.

        Args:
            rows: Numbers of the rows, none twice. A row that is not there yet is made.
            trunks: Their token ids.
            tails: Their tails.

        Returns:
            The rewards, in the shape of `tails`.
        """
        for _ in range(len(self.rows), max(rows) + 1):
            self.rows.append(Row())
        missing = len(self.rows) - len(self.places)
        if missing > 0:
            more = self.places.new_full((missing, self.places.shape[1]), -1)
            self.places = torch.cat([self.places, more])
        for row, trunk in zip(rows, trunks, strict=True):
            self._go_on(row, trunk)
        return self._complete(rows, trunks, tails)

    def take_place(self, source: int, target: int) -> None:
        """Puts the last row in the place of another one, which is forgotten; there is one row less then.

        Args:
            source: The last row. It may be the same as `target`.
            target: The row that is forgotten.
        """
        if source != len(self.rows) - 1:
            raise ValueError(f"Row {source} is not the last one of {len(self.rows)}.")
        if source != target:
            self.cache.copy_row(source, target)
            self.places[target] = self.places[source]
            self.rows[target] = self.rows[source]
        self.places = self.places[:source]
        del self.rows[source]
        if not self.rows:
            self.reset()  # which frees the memory

    def _complete(self, rows: Sequence[int], trunks: list[list[int]], tails: list[list[list[int]]]) -> list[list[Any]]:
        """Reads what is missing of rows that are in their places."""
        wanted = {row: (trunk, own) for row, trunk, own in zip(rows, trunks, tails, strict=True) if own}
        long = [row for row, (trunk, _) in wanted.items() if len(trunk) - self._held(row) > _LARGEST_JOINT_READ]
        fresh = [row for row in long if not self._held(row)]
        if fresh:
            self._read_prompts(fresh, [wanted[row][0] for row in fresh])
        if behind := [row for row in long if row not in fresh]:
            self._read(behind, [wanted[row][0] for row in behind], [[] for _ in behind])
        unlike = [list(dict.fromkeys(tuple(tail) for tail in own if tail)) for _, own in wanted.values()]
        self._read(list(wanted), [trunk for trunk, _ in wanted.values()], unlike)

        rewards: list[list[Any]] = []
        for row, own in zip(rows, tails, strict=True):
            held = self.rows[row]
            at_end = {tuple(tail.tokens): tail.rewards[-1] for tail in held.tails}
            rewards.append([at_end[tuple(tail)] if tail else held.trunk.rewards[-1] for tail in own])
        return rewards

    def reward_at(self, row: int, index: int) -> float:
        """The reward of a row's first `index + 1` tokens, where the row's trunk has been read."""
        return self.rows[row].trunk.rewards[index]

    def _held(self, row: int) -> int:
        """How many tokens of a row's trunk are held."""
        return len(self.rows[row].trunk.tokens)

    def _find(self, trunks: list[list[int]]) -> None:
        """For each wanted row, goes on from the held row that agrees longest."""
        sources = [self._best_row(row, trunk) for row, trunk in enumerate(trunks)]
        if None in sources and not any(source is not None for source in sources):
            self.reset()
            self.rows = [Row() for _ in trunks]
            self.places = self.places.new_full((len(trunks), 0), -1)
            return
        known = [0 if source is None else source for source in sources]
        if known != list(range(len(self.rows))):
            order = torch.tensor(known, device=self.backbone.device)
            self.cache.reorder_cache(order)  # type: ignore[arg-type]
            self.places = self.places[order]
            self.rows = [self.rows[source].copy() for source in known]
        for row, trunk in enumerate(trunks):
            self._go_on(row, trunk)

    def _go_on(self, row: int, trunk: list[int]) -> None:
        """Cuts or lengthens what is held of a row to what agrees with the wanted trunk."""
        held = self.rows[row]
        length = len(held.trunk.tokens)
        held.go_on(trunk)
        now = len(held.trunk.tokens)
        if now < length:
            self.places[row].masked_fill_(self.places[row] >= now, -1)
        elif now > length:
            self._place([(row, slot, length + i) for i, slot in enumerate(held.trunk.slots[length:])])

    def _best_row(self, row: int, trunk: list[int]) -> int | None:
        """The held row that agrees longest with a wanted one; that in its place, if none agrees longer."""
        trunks = [held.trunk.tokens for held in self.rows]
        if row < len(trunks) and trunks[row] and trunk[: len(trunks[row])] == trunks[row]:
            return row  # as it is at most steps
        agreed = [common_length(held, trunk) for held in trunks]
        longest = max(agreed, default=0)
        if longest == 0:
            return None
        return row if row < len(agreed) and agreed[row] == longest else agreed.index(longest)

    def _place(self, entries: list[tuple[int, int, int]]) -> None:
        rows, slots, indices = (torch.tensor(part, device=self.places.device) for part in zip(*entries, strict=True))
        self.places[rows, slots] = indices

    def _read_prompts(self, rows: list[int], trunks: list[list[int]]) -> None:
        """Reads rows of which nothing is held, equal ones once. They are padded on the right, where none sees it."""
        device = self.backbone.device
        unlike = {tuple(trunk): place for place, trunk in enumerate(dict.fromkeys(map(tuple, trunks)))}
        width = max(map(len, unlike))
        ids = torch.tensor([[*trunk, *[-1] * (width - len(trunk))] for trunk in unlike], device=device)
        cache = DynamicCache()
        positions = torch.arange(width, device=device).expand_as(ids)
        rewards = self._values(self.backbone.read(ids, None, positions, cache))
        sources = [unlike[tuple(trunk)] for trunk in trunks]
        self.cache.store(
            cache, torch.tensor(rows, device=device), torch.tensor(sources, device=device), len(self.rows)
        )
        self._widen(width)
        for row, trunk, source in zip(rows, trunks, sources, strict=True):
            held, length = self.rows[row], len(trunk)
            held.trunk = Run(list(trunk), list(range(length)), rewards[source][:length])
            held.free, held.top = list(range(length, width)), width
            self.places[row, :length] = torch.arange(length, device=device)

    def _read(self, rows: list[int], trunks: list[list[int]], tails: list[list[tuple[int, ...]]]) -> None:
        """Reads what is missing of the trunks, and the tails behind them, in one pass."""
        starts = [len(self.rows[row].trunk.tokens) for row in rows]
        blocks = [Block(trunk, start, own) for trunk, start, own in zip(trunks, starts, tails, strict=True)]
        width = max((len(block.ids) for block in blocks), default=0)
        if width == 0:
            return
        slots = [self.rows[row].take_slots(width) for row in rows]
        rewards = self._forward(rows, blocks, slots, width)

        entries = []
        for row, trunk, start, block, taken, found in zip(rows, trunks, starts, blocks, slots, rewards, strict=True):
            held, new = self.rows[row], len(trunk) - start
            held.trunk.take_over(Run(trunk[start:], taken, found), new)
            entries += [(row, slot, start + i) for i, slot in enumerate(taken[:new])]
            for tail, path in block.paths.items():
                held.tails.append(Run(list(tail), [taken[i] for i in path], [found[i] for i in path]))
            held.release(taken[len(block.ids) :])
        if entries:
            self._place(entries)

    def _forward(self, rows: list[int], blocks: list[Block], slots: list[list[int]], width: int) -> list[list[Any]]:
        """The rewards of all tokens of the blocks, padded to one width."""
        device = self.backbone.device
        ids, positions, ends = torch.tensor([block.padded(width) for block in blocks], device=device).unbind(1)
        slot = torch.tensor(slots, device=device)
        top = max(row.top for row in self.rows)
        self._widen(top)
        every = rows == list(range(len(self.rows)))
        index = None if every else torch.tensor(rows, device=device)
        places = (self.places if index is None else self.places[index])[:, :top]
        self.cache.aim(len(self.rows), index, slot, top)
        hidden = self.backbone.read(ids, self._masks(places, slot, positions, ends), positions, self.cache)
        return self._values(hidden)

    def _values(self, hidden: Tensor) -> list[list[Any]]:
        """What is kept of each token that was read, its reward, from hidden states of shape `[rows, new, hidden]`."""
        return self.head(hidden)[..., 0].float().tolist()

    def _masks(self, places: Tensor, slots: Tensor, positions: Tensor, ends: Tensor) -> Tensor | dict[str, Tensor]:
        """The additive masks: each sees the trunk, what it stands behind in its own branch, and itself."""
        count = slots.shape[1]
        order = torch.arange(count, device=slots.device)
        own = (order <= order[:, None]) & (order[:, None] < ends[:, None, :])
        visible = (places >= 0)[:, None, :].repeat(1, count, 1)
        visible.scatter_(2, slots[:, None, :].expand(-1, count, -1), own)
        masks = {}
        for kind, window in self.windows.items():
            seen = visible
            if window is not None:
                distance = positions[:, :, None] - places.scatter(1, slots, positions)[:, None, :]
                seen = visible & (distance < window)
            mask = torch.zeros(seen.shape, dtype=self.backbone.dtype, device=seen.device)
            masks[kind] = mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)[:, None]
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _widen(self, width: int) -> None:
        missing = width - self.places.shape[1]
        if missing > 0:
            more = self.places.new_full((len(self.places), missing + width // 8), -1)
            self.places = torch.cat([self.places, more], dim=1)
