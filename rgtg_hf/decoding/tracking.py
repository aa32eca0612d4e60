"""Finds out where in a generation a logits processor is called, from the token ids alone.

`generate()` tells a processor neither that a new generation starts nor which rows have ended. Both show in the ids:
a call continues a generation if its rows begin with the same prompts and are at most one token longer than before.
(Drafted tokens of assisted decoding make the length go back and forth.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["GenerationTracker"]


class GenerationTracker:
    """Follows one generation after another.

    What it finds stays on the device until the caller has looked: `flags`, then a look, then `settle`.

    Args:
        eos_token_ids: Ids that end a response.
        pad_token_id: The id that `generate()` appends to rows that have ended.

    Attributes:
        prompt_length: Columns of the current generation's prompts, padding included. It and the next are known once
            the call is settled.
        may_be_beams: Whether rows share a prompt, as beams do (and as several samples of a prompt do).
    """

    def __init__(self, eos_token_ids: Sequence[int] = (), pad_token_id: int | None = None):
        self._eos_token_ids = torch.tensor(list(eos_token_ids), dtype=torch.long)
        self.pad_token_id = pad_token_id
        self.prompt_length = 0
        self.may_be_beams = False
        self._seen: Tensor | None = None

    def flags(self, input_ids: Tensor) -> Tensor:
        """Compares a call with the one before.

        Args:
            input_ids: Prompt and generated tokens, shape `[rows, length]`.

        Returns:
            Whether it continues the generation, and whether its rows share prompts if not, shape `[2]`, boolean.
        """
        return torch.stack([self._continues(input_ids), (input_ids[1:] == input_ids[:-1]).all(-1).any()])

    def settle(self, input_ids: Tensor, continues: bool, share_prompts: bool) -> bool:
        """Takes note of a call, by its flags.

        Returns:
            Whether a new generation begins.
        """
        if not continues:
            self.prompt_length, self.may_be_beams = input_ids.shape[1], share_prompts
        self._seen = input_ids
        return not continues

    def _continues(self, input_ids: Tensor) -> Tensor:
        seen, prompt = self._seen, self.prompt_length
        nothing = input_ids.new_zeros((), dtype=torch.bool)
        if seen is None or len(input_ids) != len(seen) or not prompt < input_ids.shape[1] <= seen.shape[1] + 1:
            return nothing
        same_prompts = (input_ids[:, :prompt] == seen[:, :prompt]).all()
        if len(input_ids) == 1:
            return same_prompts  # drafts, which come and go, have one row
        if input_ids.shape[1] != seen.shape[1] + 1:
            return nothing
        # Every row is one that was seen and one token more. Only beams change their places.
        before = input_ids[:, :-1]
        same = (before == seen).all()
        if self.may_be_beams:
            same = same | (before[:, None] == seen[None]).all(-1).any(1).all()
        return same_prompts & same

    def past_end(self) -> Tensor:
        """Rows that hold an end token, shape `[rows]`, boolean."""
        assert self._seen is not None
        return self._ends(self._seen[:, self.prompt_length :]).any(-1)

    def going_on(self, input_ids: Tensor, continues: Tensor) -> Tensor:
        """Rows that may still be going on.

        A row has ended when an end token is followed by padding. One that ends with the end token itself may be going
        on, where `generate()` was told to ignore it, and is guided.

        Args:
            input_ids: The ids of a call.
            continues: Its first flag. Where a generation begins, all rows go on.

        Returns:
            Shape `[rows]`, boolean.
        """
        response = input_ids[:, self.prompt_length :]
        if not len(self._eos_token_ids) or self.pad_token_id is None or response.shape[1] < 2:
            return torch.ones(len(input_ids), dtype=torch.bool, device=input_ids.device)
        padded = (response == self.pad_token_id).long().flip(-1).cumprod(-1).flip(-1).bool()
        return ~(self._ends(response)[:, :-1] & padded[:, 1:]).any(-1) | ~continues

    def _ends(self, response: Tensor) -> Tensor:
        """Where the responses hold an end token, shape `[rows, response_length]`, boolean."""
        self._eos_token_ids = self._eos_token_ids.to(response.device)
        return torch.isin(response, self._eos_token_ids)
