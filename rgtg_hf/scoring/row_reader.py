"""Rows of tokens and their candidates in one forward pass, over a buffer of what was read before.

    row of the buffer:  | prompt and response so far | unread tokens | candidate 1 | ... | candidate k |  (unused)
    position:             column                       column          n for every candidate
    visible to it:        columns up to its own                        0 .. n-1 and its own column

n is the number of tokens of the row. The last of them is read in any case, so the reward of the prefix and those of
its candidates come from one pass, and it does not matter which candidate was chosen, or whether the token was one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.scoring.backbone import Backbone
from rgtg_hf.scoring.row_buffer import RowBuffer

__all__ = ["RowReader"]

# Up to so many unread tokens are read together with the candidates. More (a prompt) go first, in passes of bounded
# size, so that the mask of a pass is small.
_MOST_TOGETHER = 16
_TOKENS_PER_PASS = 4096
_IDS_COMPARED_AT_ONCE = 2**24


class RowReader:
    """Reads rows with a causal reward model, and keeps what it can use again.

    Tokens that were read are found again by comparing ids, on the device: `generate()` permutes beams, drops drafts
    and starts over without notice. The host looks at the device once for each call.

    Args:
        reward_model: A causal `*ForSequenceClassification` model that takes 4-D masks (attention by sdpa or eager),
            without recurrent layers.

    Raises:
        ValueError: If the model has recurrent layers, whose state candidates cannot share.
    """

    def __init__(self, reward_model: PreTrainedModel):
        self.backbone = Backbone(reward_model)
        if self.backbone.is_recurrent:
            raise ValueError("Siblings cannot share a recurrent state: use the expand scorer, or whole sequences.")
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
        """Forgets everything, which frees the memory."""
        self.buffer = RowBuffer()
        self.held: Tensor | None = None  # the ids that were read, -1 behind the end of a row, [rows, columns]

    # Tensors made in inference mode could not be written to outside of it, in a later call.
    @torch.inference_mode(False)
    @torch.no_grad()
    def read(
        self, ids: Tensor, lengths: Tensor, candidate_ids: Tensor | None = None, needed: Tensor | None = None
    ) -> Tensor | None:
        """Reads what is missing of the rows, at least their last token, and candidates after them.

        Args:
            ids: Token ids of the rows, with -1 behind the end of each, shape `[rows, length]`.
            lengths: How many tokens each row has, at least 1, shape `[rows]`.
            candidate_ids: Candidates for the token after each row, shape `[rows, k]`.
            needed: Whether anything is needed at all, one boolean; it is looked at along with the rest.

        Returns:
            Hidden states of the last token of each row and of its candidates, shape `[rows, 1 + k, hidden]`. `None`
            if nothing is needed.
        """
        sources, missing, longest, wanted = self._compare(ids, lengths, needed)
        if not wanted:
            return None
        fresh, self.held = self.held is None, None  # until the pass has succeeded, nothing is sure
        if sources is not None:
            self.buffer.keep_rows(sources)
        width = longest + 1 + (0 if candidate_ids is None else candidate_ids.shape[1])
        if missing > _MOST_TOGETHER:
            # Rows that begin are often equal: beams, or several samples of one prompt.
            different, sources = ids.unique(dim=0, return_inverse=True) if fresh else (ids, None)
            if len(different) == len(ids):
                different, sources = ids, None
            self._read_earlier(different, missing, width)
            if sources is not None:
                self.buffer.keep_rows(sources)
            missing = 1
        hidden = self._read_ends(ids, lengths, missing, width, candidate_ids)
        self.held = ids
        return hidden

    def _compare(self, ids: Tensor, lengths: Tensor, needed: Tensor | None) -> tuple[Tensor | None, int, int, bool]:
        """Finds for each row the held one that agrees longest.

        Returns:
            The row of the buffer that each row goes on from, `None` if it is its own; how many tokens have to be read
            of the row that needs the most; the tokens of the longest row; and whether anything is needed.
        """
        needed = lengths.new_ones(()) if needed is None else needed.to(lengths)
        if self.held is None:
            longest, wanted = torch.stack([lengths.max(), needed]).tolist()
            return None, longest, longest, bool(wanted)
        agreed = _common_lengths(ids, self.held)
        best, sources = agreed.max(-1)
        own = torch.arange(len(ids), device=ids.device)
        if len(ids) == len(self.held):  # a row that agrees as long with itself stays where it is
            sources = torch.where(agreed.diagonal() == best, own, sources)
        missing = lengths - best.minimum(lengths - 1)
        flags = missing.max(), lengths.max(), best.max(), (sources != own).any(), needed
        most, longest, agreeing, moved, wanted = torch.stack([flag.to(lengths) for flag in flags]).tolist()
        moved = moved or len(ids) != len(self.held)
        if wanted and not agreeing:
            self.reset()
        return sources if moved and agreeing else None, most, longest, bool(wanted)

    def _read_earlier(self, ids: Tensor, missing: int, width: int) -> None:
        """Reads all missing tokens of the rows but the last, in passes of bounded size."""
        lengths = (ids >= 0).sum(-1)
        size = max(1, _TOKENS_PER_PASS // len(ids))
        for start in range(missing, 1, -size):
            count = min(size, start - 1)
            self._read_ends(ids, lengths - start + count, count, width)

    def _read_ends(
        self, ids: Tensor, lengths: Tensor, missing: int, width: int, candidate_ids: Tensor | None = None
    ) -> Tensor:
        """Reads the last tokens of the rows up to `lengths`, and candidates behind them, in one pass.

        Returns:
            Hidden states of the last token and of the candidates, shape `[rows, 1 + k, hidden]`.
        """
        columns = lengths[:, None] + torch.arange(-missing, 0, device=ids.device)
        new = ids.gather(1, columns.clamp(min=0))
        # A row that has fewer tokens reads something in front of it, which goes to the last column, seen by nobody.
        in_front = columns < 0
        positions = columns.clamp(min=0)
        columns = columns.masked_fill(in_front, width - 1)
        if candidate_ids is not None:
            count = candidate_ids.shape[1]
            new = torch.cat([new, candidate_ids], dim=1)
            columns = torch.cat([columns, lengths[:, None] + torch.arange(count, device=ids.device)], dim=1)
            positions = torch.cat([positions, lengths[:, None].expand(-1, count)], dim=1)
        self.buffer.place_next(len(ids), columns, width)
        masks = self._masks(columns, positions, width)
        return self.backbone.read(new, masks, positions, self.buffer)[:, missing - 1 :]

    def _masks(self, columns: Tensor, positions: Tensor, width: int) -> Tensor | dict[str, Tensor]:
        """The additive masks, by kind of layer: a token sees the columns below its position, and its own."""
        every = torch.arange(width, device=columns.device)
        own = columns[:, :, None] == every
        before = every < positions[:, :, None]
        masks = {}
        for kind, window in self.windows.items():
            near = before if window is None else before & (positions[:, :, None] - every < window)
            mask = torch.zeros(own.shape, dtype=self.backbone.mask_dtype, device=own.device)
            masks[kind] = mask.masked_fill_(~(near | own), torch.finfo(mask.dtype).min)[:, None]
        return masks if len(masks) > 1 else next(iter(masks.values()))


def _common_lengths(ids: Tensor, held: Tensor) -> Tensor:
    """How many leading ids each row shares with each held row, shape `[rows, held rows]`."""
    width = min(ids.shape[1], held.shape[1])
    at_once = max(1, _IDS_COMPARED_AT_ONCE // (len(held) * (width + 1)))
    found = []
    for some in ids[:, None, :width].split(at_once):
        differs = F.pad(some != held[None, :, :width], (0, 1), value=True)
        found.append(differs.byte().argmax(-1))
    return torch.cat(found)
