"""Rows of tokens and what may follow them in one forward pass, over a buffer of what was read before.

    row of the buffer:  | prompt and response so far | unread tokens | candidate 1 | ... | candidate k |  (unused)
    position:             column                       column          n for every candidate
    visible to it:        columns up to its own                        0 .. n-1 and its own column

n is the number of tokens of the row. The last of them is read in any case, so the reward of the prefix and those of
its candidates come from one pass, and it does not matter which candidate was chosen, or whether the token was one.
In place of a candidate there may be a continuation of several tokens, as in retokenized text. They stand one after
the other, and each also sees those of its own continuation before it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.causal_classifier import check_positions
from rgtg_hf.scoring.backbone import Backbone
from rgtg_hf.scoring.recorded_pass import PassRecorder
from rgtg_hf.scoring.row_buffer import RowBuffer

__all__ = ["MOST_TOGETHER", "RowReader", "last_ids", "padded"]

logger = logging.getLogger(__name__)

# Up to so many unread tokens are read together with the candidates. More (a prompt) go first, in passes of bounded
# size, so that the mask of a pass is small.
MOST_TOGETHER = 16
_TOKENS_PER_PASS = 4096
_IDS_COMPARED_AT_ONCE = 2**24


class _Comparison(NamedTuple):
    """The result of comparing rows with those that are held.

    Attributes:
        sources: The held row that each row goes on from, `None` if it is its own, shape `[rows]`.
        agreed: How many tokens each row shares with it, shape `[rows]`.
        missing: How many tokens have to be read of the row that needs the most, among those that will be read.
        longest: The tokens of the longest row.
        furthest: The tokens of the longest needed row.
        agree: Whether any row begins like a held one.
        grew: Whether every needed row is a held one and one token more.
        needed: Numbers of the rows that are needed.
    """

    sources: Tensor | None
    agreed: Tensor
    missing: int
    longest: int
    furthest: int
    agree: bool
    grew: bool
    needed: list[int]


class RowReader:
    """Reads rows with a causal reward model, and keeps what it can use again.

    Tokens that were read are found again by comparing ids, on the device: `generate()` permutes beams, drops drafts
    and starts over without notice. The host looks at the device once for each call. What other weights have read is
    forgotten, as if it were of another generation.

    Args:
        reward_model: A causal `*ForSequenceClassification` model that takes 4-D masks (attention by sdpa or eager),
            without recurrent layers.
        use_cuda_graph: Whether steps that read one token and as many candidates as before run as a CUDA graph. Then
            every pass attends to the whole buffer, and all rows are read.

    Attributes:
        tokens_computed: Reward-model tokens computed so far, padding included.

    Raises:
        ValueError: If the model has recurrent layers, whose state candidates cannot share.
    """

    def __init__(self, reward_model: PreTrainedModel, use_cuda_graph: bool = False):
        self.backbone = Backbone(reward_model)
        if self.backbone.is_recurrent:
            raise ValueError(
                "A recurrent state can be neither shared nor cut: use the scorer 'auto', or whole sequences."
            )
        if use_cuda_graph and not self.backbone.is_in_one_place:
            logger.warning("The reward model runs without a CUDA graph, since its weights are on several devices.")
            use_cuda_graph = False
        self.tokens_computed, self.use_cuda_graph = 0, use_cuda_graph
        self.reads_some = self.backbone.device.type == "cpu" and not use_cuda_graph
        config = self.backbone.config
        window = getattr(config, "sliding_window", None)
        layer_types = set(getattr(config, "layer_types", None) or ())
        # A model without a list of layer types has one kind of layer: windowed where it names a window.
        self.windows: dict[str, int | None] = {
            kind: window if kind == "sliding_attention" else None
            for kind in layer_types or {"sliding_attention" if window else "full_attention"}
        }
        self.reset()

    def reset(self) -> None:
        """Forgets everything, which frees the memory."""
        self.buffer = RowBuffer(fixed=self.use_cuda_graph)
        self._recorder = PassRecorder() if self.use_cuda_graph else None
        self.held: Tensor | None = None  # the ids that were read, -1 behind the end of a row, [rows, columns]

    # Tensors made in inference mode could not be written to outside of it, in a later call.
    @torch.inference_mode(False)
    @torch.no_grad()
    def read(
        self,
        ids: Tensor,
        lengths: Tensor,
        continuations: Tensor | None = None,
        starts: Tensor | None = None,
        needed: Tensor | None = None,
        ahead: int = 1,
    ) -> Tensor | None:
        """Reads what is missing of the rows, at least their last token, and what may follow them.

        Args:
            ids: Token ids of the rows, with -1 behind the end of each, shape `[rows, length]`.
            lengths: How many tokens each row has, shape `[rows]`.
            continuations: Tokens of continuations of each row, one after the other, shape `[rows, k]`.
            starts: For each of these tokens the index at which its continuation starts, shape `[rows, k]`. Defaults to
                its own index: each is a candidate for the next token.
            needed: The rows that are needed, boolean, shape `[rows]`; all by default. On a GPU, where rows cost
                nothing, the others are read along. On a CPU they stay as they are, and catch up when they are needed.
            ahead: Tokens of the longest continuation.

        Returns:
            Hidden states of the last token of each row and of its continuations, without meaning in rows that are not
            needed, shape `[rows, 1 + k, hidden]`. `None` if none is needed.

        Raises:
            ValueError: If a row with its continuations is longer than the model can read.
        """
        state = self.backbone.state
        if self.held is not None and state.has_changed():
            self.reset()
        needed = torch.ones_like(lengths, dtype=torch.bool) if needed is None else needed
        found = self._compare(ids, lengths, needed)
        if not found.needed:
            return None
        check_positions(self.backbone.longest, found.furthest + (0 if continuations is None else ahead))
        # Where rows did more than grow by a token, a generation may have begun, perhaps with other parts in the model.
        if not found.grew and state.has_changed(thorough=True):
            self.reset()
        elif not found.grew and not found.agree:
            self.held = None  # the memory serves the next generation, if that is as large
            if self.buffer.row_capacity != len(ids):
                self.reset()
        width = found.longest + 1 + (0 if continuations is None else continuations.shape[1])
        width = self.buffer.width_for(width)
        missing, rows = found.missing, None
        fresh, self.held = self.held is None, None  # until the pass has succeeded, nothing is sure
        if fresh:
            missing = max(1, found.longest)
            if missing > MOST_TOGETHER:
                self._read_different(ids, missing, width)
                missing = 1
        else:
            if found.sources is not None:
                self.buffer.keep_rows(found.sources)
            if self.reads_some and len(found.needed) < len(ids):
                rows = torch.tensor(found.needed, device=ids.device)
        own, own_lengths = (ids, lengths) if rows is None else (ids[rows], lengths[rows])
        if rows is not None:
            continuations, starts = (None if part is None else part[rows] for part in (continuations, starts))
        if missing > MOST_TOGETHER:
            self.read_earlier(own, own_lengths, missing, width, rows, len(ids))
            missing = 1
        new = last_ids(own, own_lengths, missing)
        hidden = self.read_ends(new, own_lengths, width, continuations, starts, rows, len(ids))
        if rows is None:
            self.held = ids
            return hidden
        kept = found.agreed.index_copy(0, rows, own_lengths)
        self.held = ids.masked_fill(torch.arange(ids.shape[1], device=ids.device) >= kept[:, None], -1)
        return hidden.new_zeros(len(ids), *hidden.shape[1:]).index_copy(0, rows, hidden)

    def _read_different(self, ids: Tensor, missing: int, width: int) -> None:
        """Reads rows that begin, but for their last tokens, and equal ones once: beams, or samples of one prompt."""
        different, sources = ids.unique(dim=0, return_inverse=True)
        if len(different) == len(ids):
            different = ids
        self.read_earlier(different, (different >= 0).sum(-1), missing, width)
        if len(different) < len(ids):
            self.buffer.keep_rows(sources)

    def _compare(self, ids: Tensor, lengths: Tensor, needed: Tensor) -> _Comparison:
        """Finds for each row the held one that agrees longest, and looks at what there is to do."""
        if self.held is None:
            agreed, sources = torch.zeros_like(lengths), None
            held_rows = held_lengths = torch.zeros_like(lengths)
        else:
            shared = _common_lengths(ids, self.held)
            best, sources = shared.max(-1)
            held_rows = torch.arange(len(ids), device=ids.device)
            if len(ids) == len(self.held):  # a row that agrees as long with itself stays where it is
                sources = torch.where(shared.diagonal() == best, held_rows, sources)
            agreed, held_lengths = best.minimum(lengths), (self.held >= 0).sum(-1)[sources]
        missing = lengths - agreed.minimum(lengths - 1)
        grew = (agreed == held_lengths) & (lengths == agreed + 1) | ~needed
        moved = torch.zeros((), device=ids.device) if sources is None else (sources != held_rows).any()
        most = (missing * needed).max() if self.reads_some else missing.max()
        flags = most, lengths.max(), (lengths * needed).max(), agreed.max(), grew.all(), moved
        looked = torch.cat([torch.stack([flag.to(lengths) for flag in flags]), needed.to(lengths)]).tolist()
        rows = [row for row, one in enumerate(looked[len(flags) :]) if one]
        most_missing, longest, furthest, agree, grown, has_moved = looked[: len(flags)]
        if self.held is not None and not has_moved and len(ids) == len(self.held):
            sources = None
        return _Comparison(sources, agreed, most_missing, longest, furthest, bool(agree), bool(grown), rows)

    def read_earlier(
        self, ids: Tensor, lengths: Tensor, missing: int, width: int, rows: Tensor | None = None, row_count: int = 0
    ) -> None:
        """Reads the last tokens of rows but the very last, in passes of bounded size; see `read_ends`."""
        size = max(1, _TOKENS_PER_PASS // len(ids))
        for start in range(missing, 1, -size):
            count = min(size, start - 1)
            ends = lengths - start + count
            self.read_ends(last_ids(ids, ends, count), ends, width, rows=rows, row_count=row_count)

    def read_ends(
        self,
        new: Tensor,
        lengths: Tensor,
        width: int,
        continuations: Tensor | None = None,
        starts: Tensor | None = None,
        rows: Tensor | None = None,
        row_count: int = 0,
    ) -> Tensor:
        """Reads the last tokens of rows and what may follow them, in one pass. The tokens before must have been read.

        Args:
            new: The last tokens of each row; whatever stands in front of a row with fewer, shape `[read, new]`.
            lengths: How many tokens each row has with these, shape `[read]`.
            width: More than the columns that are written in any row.
            continuations: See `read`, as for `starts`.
            rows: The rows of the buffer, shape `[read]`. Defaults to all.
            row_count: With `rows`, how many there are in the buffer.

        Returns:
            Hidden states of the last token and of the continuations, shape `[read, 1 + k, hidden]`.
        """
        self.tokens_computed += new.numel() + (0 if continuations is None else continuations.numel())
        inputs = (new, lengths) if continuations is None else (new, lengths, continuations)
        one_pass = partial(self._pass, width, starts, rows, row_count or len(new))
        if self._recorder is None or new.shape[1] > 1 or starts is not None or rows is not None:
            return one_pass(*inputs)
        return self._recorder.run(one_pass, inputs, width, self.buffer.allocations)

    def _pass(self, width: int, starts: Tensor | None, rows: Tensor | None, row_count: int, *inputs: Tensor) -> Tensor:
        """The pass of `read_ends`: it never looks at the device, and its shapes depend on those of its inputs only.

        The inputs, which a recording keeps in memory of its own, are the new tokens, the lengths, and perhaps the
        continuations.
        """
        new, lengths, *rest = inputs
        continuations = rest[0] if rest else None
        missing, device = new.shape[1], new.device
        columns = lengths[:, None] + torch.arange(-missing, 0, device=device)
        # What stands in front of a row goes to the last column, which nobody sees.
        below = columns.clamp(min=0)  # a token sees the columns below this one
        columns = first = columns.masked_fill(columns < 0, width - 1)  # and from the first one of its own on
        if continuations is not None:
            order = torch.arange(continuations.shape[1], device=device).expand_as(continuations)
            new = torch.cat([new, continuations], dim=1)
            columns = torch.cat([columns, lengths[:, None] + order], dim=1)
            first = torch.cat([first, lengths[:, None] + (order if starts is None else starts)], dim=1)
            below = torch.cat([below, lengths[:, None].expand_as(order)], dim=1)
        self.buffer.place_next(row_count, columns, width, rows)
        positions = below + columns - first
        masks = self._masks(columns, first, below, positions, width)
        return self.backbone.read(new, masks, positions, self.buffer)[:, missing - 1 :]

    def _masks(
        self, columns: Tensor, first: Tensor, below: Tensor, positions: Tensor, width: int
    ) -> Tensor | dict[str, Tensor]:
        """The additive masks, by kind of layer."""
        every = torch.arange(width, device=columns.device)
        columns, first, below, positions = (part[:, :, None] for part in (columns, first, below, positions))
        masks = {}
        for kind, window in self.windows.items():
            before, own = every < below, (every >= first) & (every <= columns)
            if window is not None:
                before, own = before & (positions - every < window), own & (columns - every < window)
            mask = torch.zeros(own.shape, dtype=self.backbone.mask_dtype, device=own.device)
            masks[kind] = mask.masked_fill_(~(before | own), torch.finfo(mask.dtype).min)[:, None]
        return masks if len(masks) > 1 else next(iter(masks.values()))


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Lists of ids as a tensor with -1 behind the end of each, shape `[rows, length]`, and their lengths."""
    width = max(1, *map(len, rows))
    ids = torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows], device=device)
    return ids, torch.tensor([len(row) for row in rows], device=device)


def last_ids(ids: Tensor, lengths: Tensor, count: int) -> Tensor:
    """The last ids of each row, shape `[rows, count]`; anything in front of a row that has fewer."""
    columns = lengths[:, None] + torch.arange(-count, 0, device=ids.device)
    return ids.gather(1, columns.clamp(min=0))


def _common_lengths(ids: Tensor, held: Tensor) -> Tensor:
    """How many leading ids each row shares with each held row, shape `[rows, held rows]`."""
    width = min(ids.shape[1], held.shape[1])
    at_once = max(1, _IDS_COMPARED_AT_ONCE // (len(held) * (width + 1)))
    found = []
    for some in ids[:, None, :width].split(at_once):
        differs = F.pad(some != held[None, :, :width], (0, 1), value=True)
        found.append(differs.byte().argmax(-1))
    return torch.cat(found)
