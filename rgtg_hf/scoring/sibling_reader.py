"""Rewards of continuations that share a prefix: for each row the prefix and what may follow it, in one forward pass.

The continuations follow the prefix in one sequence. A 4-D mask lets each token see the prefix and its own continuation
but no other, and its position is the one it would have alone. So the model computes for each continuation the same as
without the others.

Tokens that were read are found again by comparing ids. A row goes on from the continuation that became part of its
prefix, which is not read again. A row may lie behind, and catches up when it is read next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rgtg_hf.rewards.prefix_rewards import find_score_head
from rgtg_hf.scoring.backbone import Backbone
from rgtg_hf.scoring.held_rows import HeldRow, HeldTokens, NewTokens, longest_match
from rgtg_hf.scoring.sibling_cache import SiblingCache

__all__ = ["SiblingReader"]

# Up to so many tokens of a prefix are read in the same pass as its continuations. More (a prompt) go first in a pass
# of their own, which computes less padding where rows differ.
_LARGEST_JOINT_READ = 16


class SiblingReader:
    """Reads prefixes and their continuations with a causal reward model, and keeps what it can use again.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label that takes 4-D masks
            (attention by sdpa or eager), without recurrent layers.

    Raises:
        ValueError: If the model has recurrent layers, whose state siblings cannot share.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.backbone = Backbone(reward_model)
        if self.backbone.is_recurrent:
            raise ValueError("Siblings cannot share a recurrent state: use the expand scorer, or whole sequences.")
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
        self.rows: list[HeldRow] = []
        self.cache = SiblingCache()
        # The position in its prefix of the token in each place, -1 for none, shape [rows, places].
        self.positions = torch.empty(0, 0, dtype=torch.long, device=self.backbone.device)

    # Tensors made in inference mode could not be written to outside of it, in a later call.
    @torch.inference_mode(False)
    @torch.no_grad()
    def read(self, prefixes: list[list[int]], continuations: list[list[list[int]]]) -> list[list[float]]:
        """Computes the reward at the end of each continuation.

        Args:
            prefixes: The reward model's token ids of each row.
            continuations: For each row the continuations whose rewards are wanted; the empty one stands for the prefix
                itself. A row without continuations is not read.

        Returns:
            The rewards, in the shape of `continuations`.
        """
        self._find(prefixes)
        return self._complete(range(len(prefixes)), prefixes, continuations)

    @torch.inference_mode(False)
    @torch.no_grad()
    def read_rows(
        self, rows: list[int], prefixes: list[list[int]], continuations: list[list[list[int]]]
    ) -> list[list[Any]]:
        """Does the same for rows that the caller names, each of which goes on from what is held of itself.

        Where rows come and go one by one, as in a server, other rows stay as they are and nothing is moved.

        Args:
            rows: Numbers of the rows, all different. A row that is not there yet is made.
            prefixes: Their token ids.
            continuations: Their continuations.

        Returns:
            The rewards, in the shape of `continuations`.
        """
        for _ in range(len(self.rows), max(rows) + 1):
            self.rows.append(HeldRow())
        missing = len(self.rows) - len(self.positions)
        if missing > 0:
            more = self.positions.new_full((missing, self.positions.shape[1]), -1)
            self.positions = torch.cat([self.positions, more])
        for row, prefix in zip(rows, prefixes, strict=True):
            self._follow(row, prefix)
        return self._complete(rows, prefixes, continuations)

    def replace_row(self, source: int, target: int) -> None:
        """Puts the last row in the place of another one, which is forgotten; then there is one row less.

        Args:
            source: The last row. It may be the same as `target`.
            target: The row that is forgotten.
        """
        if source != len(self.rows) - 1:
            raise ValueError(f"Row {source} is not the last one of {len(self.rows)}.")
        if source != target:
            self.cache.copy_row(source, target)
            self.positions[target] = self.positions[source]
            self.rows[target] = self.rows[source]
        self.positions = self.positions[:source]
        del self.rows[source]
        if not self.rows:
            self.reset()  # which frees the memory

    def _complete(
        self, rows: Sequence[int], prefixes: list[list[int]], continuations: list[list[list[int]]]
    ) -> list[list[Any]]:
        """Reads what is missing of rows that are in their places."""
        wanted = {row: (prefix, own) for row, prefix, own in zip(rows, prefixes, continuations, strict=True) if own}
        long = [row for row, (prefix, _) in wanted.items() if len(prefix) - self._held(row) > _LARGEST_JOINT_READ]
        fresh = [row for row in long if not self._held(row)]
        if fresh:
            self._read_prompts(fresh, [wanted[row][0] for row in fresh])
        if behind := [row for row in long if row not in fresh]:
            self._read(behind, [wanted[row][0] for row in behind], [[] for _ in behind])
        different = [list(dict.fromkeys(tuple(one) for one in own if one)) for _, own in wanted.values()]
        self._read(list(wanted), [prefix for prefix, _ in wanted.values()], different)

        rewards: list[list[Any]] = []
        for row, own in zip(rows, continuations, strict=True):
            held = self.rows[row]
            at_end = {tuple(one.tokens): one.rewards[-1] for one in held.continuations}
            rewards.append([at_end[tuple(one)] if one else held.prefix.rewards[-1] for one in own])
        return rewards

    def _held(self, row: int) -> int:
        """How many tokens of a row's prefix are held."""
        return len(self.rows[row].prefix.tokens)

    def _find(self, prefixes: list[list[int]]) -> None:
        """For each wanted row, goes on from the held row that agrees longest."""
        held = [one.prefix.tokens for one in self.rows]
        found = [longest_match(row, prefix, held) for row, prefix in enumerate(prefixes)]
        if not any(agreed for _, agreed in found):
            self.reset()
            self.rows = [HeldRow() for _ in prefixes]
            self.positions = self.positions.new_full((len(prefixes), 0), -1)
            return
        sources = [source for source, _ in found]
        if sources != list(range(len(self.rows))):
            order = torch.tensor(sources, device=self.backbone.device)
            self.cache.reorder_cache(order)  # type: ignore[arg-type]
            self.positions = self.positions[order]
            self.rows = [self.rows[source].copy() for source in sources]
        for row, prefix in enumerate(prefixes):
            self._follow(row, prefix)

    def _follow(self, row: int, prefix: list[int]) -> None:
        """Cuts or extends what is held of a row to the part that agrees with the wanted prefix."""
        held = self.rows[row]
        length = len(held.prefix.tokens)
        held.follow(prefix)
        now = len(held.prefix.tokens)
        if now < length:
            self.positions[row].masked_fill_(self.positions[row] >= now, -1)
        elif now > length:
            self._note([(row, place, length + i) for i, place in enumerate(held.prefix.places[length:])])

    def _note(self, entries: list[tuple[int, int, int]]) -> None:
        """Writes down the positions of tokens: row, place, position."""
        rows, places, positions = (
            torch.tensor(part, device=self.positions.device) for part in zip(*entries, strict=True)
        )
        self.positions[rows, places] = positions

    def _read_prompts(self, rows: list[int], prefixes: list[list[int]]) -> None:
        """Reads rows of which nothing is held, equal ones once. Padding is on the right, where no token sees it."""
        device = self.backbone.device
        different = {prefix: index for index, prefix in enumerate(dict.fromkeys(map(tuple, prefixes)))}
        width = max(map(len, different))
        ids = torch.tensor([[*prefix, *[-1] * (width - len(prefix))] for prefix in different], device=device)
        cache = DynamicCache()
        positions = torch.arange(width, device=device).expand_as(ids)
        rewards = self._values(self.backbone.read(ids, None, positions, cache))
        sources = [different[tuple(prefix)] for prefix in prefixes]
        self.cache.store(
            cache, torch.tensor(rows, device=device), torch.tensor(sources, device=device), len(self.rows)
        )
        self._widen(width)
        for row, prefix, source in zip(rows, prefixes, sources, strict=True):
            held, length = self.rows[row], len(prefix)
            held.prefix = HeldTokens(list(prefix), list(range(length)), rewards[source][:length])
            held.free, held.top = list(range(length, width)), width
            self.positions[row, :length] = torch.arange(length, device=device)

    def _read(self, rows: list[int], prefixes: list[list[int]], continuations: list[list[tuple[int, ...]]]) -> None:
        """Reads what is missing of the prefixes, and the continuations, in one pass."""
        starts = [self._held(row) for row in rows]
        news = [NewTokens(*parts) for parts in zip(prefixes, starts, continuations, strict=True)]
        width = max((len(new.ids) for new in news), default=0)
        if width == 0:
            return
        places = [self.rows[row].take_places(width) for row in rows]
        rewards = self._forward(rows, news, places, width)

        entries = []
        for row, prefix, start, new, taken, found in zip(rows, prefixes, starts, news, places, rewards, strict=True):
            held, missing = self.rows[row], len(prefix) - start
            held.prefix.append(HeldTokens(prefix[start:], taken, found), missing)
            entries += [(row, place, start + i) for i, place in enumerate(taken[:missing])]
            for continuation, path in new.paths.items():
                parts = [taken[i] for i in path], [found[i] for i in path]
                held.continuations.append(HeldTokens(list(continuation), *parts))
            held.release(taken[len(new.ids) :])
        if entries:
            self._note(entries)

    def _forward(self, rows: list[int], news: list[NewTokens], places: list[list[int]], width: int) -> list[list[Any]]:
        """The rewards of all new tokens, padded to one width."""
        device = self.backbone.device
        ids, positions, ends = torch.tensor([new.padded(width) for new in news], device=device).unbind(1)
        place = torch.tensor(places, device=device)
        top = max(row.top for row in self.rows)
        self._widen(top)
        every = rows == list(range(len(self.rows)))
        index = None if every else torch.tensor(rows, device=device)
        held = (self.positions if index is None else self.positions[index])[:, :top]
        self.cache.place_next(len(self.rows), index, place, top)
        hidden = self.backbone.read(ids, self._masks(held, place, positions, ends), positions, self.cache)
        return self._values(hidden)

    def _values(self, hidden: Tensor) -> list[list[Any]]:
        """The value to keep for each token, its reward, from hidden states of shape `[rows, new, hidden]`."""
        return self.head(hidden)[..., 0].float().tolist()

    def _masks(self, held: Tensor, places: Tensor, positions: Tensor, ends: Tensor) -> Tensor | dict[str, Tensor]:
        """The additive masks: each new token sees the prefix, the tokens that it continues, and itself."""
        count = places.shape[1]
        order = torch.arange(count, device=places.device)
        own = (order <= order[:, None]) & (order[:, None] < ends[:, None, :])
        visible = (held >= 0)[:, None, :].repeat(1, count, 1)
        visible.scatter_(2, places[:, None, :].expand(-1, count, -1), own)
        masks = {}
        for kind, window in self.windows.items():
            seen = visible
            if window is not None:
                distance = positions[:, :, None] - held.scatter(1, places, positions)[:, None, :]
                seen = visible & (distance < window)
            mask = torch.zeros(seen.shape, dtype=self.backbone.dtype, device=seen.device)
            masks[kind] = mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)[:, None]
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _widen(self, width: int) -> None:
        missing = width - self.positions.shape[1]
        if missing > 0:
            more = self.positions.new_full((len(self.positions), missing + width // 8), -1)
            self.positions = torch.cat([self.positions, more], dim=1)
