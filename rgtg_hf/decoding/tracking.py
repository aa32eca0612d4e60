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

    Args:
        eos_token_ids: Ids that end a response.
        pad_token_id: The id that `generate()` appends to rows that have ended.

    Attributes:
        prompt_length: Columns of the current generation's prompts, padding included.
        may_be_beams: Whether rows share a prompt, as beams do (and as several samples of a prompt do).
    """

    def __init__(self, eos_token_ids: Sequence[int] = (), pad_token_id: int | None = None):
        self.eos_token_ids = list(eos_token_ids)
        self.pad_token_id = pad_token_id
        self.prompt_length = 0
        self.may_be_beams = False
        self._seen: Tensor | None = None

    def follow(self, input_ids: Tensor) -> bool:
        """Takes note of a call.

        Args:
            input_ids: Prompt and generated tokens, shape `[rows, length]`.

        Returns:
            Whether a new generation begins.
        """
        begins = not self._continues(input_ids)
        if begins:
            self.prompt_length = input_ids.shape[1]
            self.may_be_beams = bool((input_ids[1:] == input_ids[:-1]).all(-1).any())
        self._seen = input_ids
        return begins

    def _continues(self, input_ids: Tensor) -> bool:
        if self._seen is None or len(input_ids) != len(self._seen):
            return False
        prompt = self.prompt_length
        if len(input_ids) > 1 and not self._one_longer(input_ids):
            return False  # drafts, which come and go, have one row
        if not prompt < input_ids.shape[1] <= self._seen.shape[1] + 1:
            return False
        return torch.equal(input_ids[:, :prompt], self._seen[:, :prompt])

    def _one_longer(self, input_ids: Tensor) -> bool:
        """Whether every row is one that was seen, perhaps in another place, and one token more."""
        assert self._seen is not None
        if input_ids.shape[1] != self._seen.shape[1] + 1:
            return False
        before = input_ids[:, :-1]
        return torch.equal(before, self._seen) or bool((before[:, None] == self._seen[None]).all(-1).any(1).all())

    def past_end(self) -> Tensor:
        """Rows that hold an end token, shape `[rows]`, boolean."""
        return self._ends().any(-1)

    def going_on(self) -> Tensor:
        """Rows that may still be going on, shape `[rows]`, boolean.

        A row has ended when an end token is followed by padding. One that ends with the end token itself may be going
        on, where `generate()` was told to ignore it, and is guided.
        """
        assert self._seen is not None
        response = self._seen[:, self.prompt_length :]
        if not self.eos_token_ids or self.pad_token_id is None or response.shape[1] < 2:
            return torch.ones(len(self._seen), dtype=torch.bool, device=self._seen.device)
        padded = (response == self.pad_token_id).long().flip(-1).cumprod(-1).flip(-1).bool()
        return ~(self._ends()[:, :-1] & padded[:, 1:]).any(-1)

    def _ends(self) -> Tensor:
        """Where the responses hold an end token, shape `[rows, response_length]`, boolean."""
        assert self._seen is not None
        response = self._seen[:, self.prompt_length :]
        return torch.isin(response, torch.tensor(self.eos_token_ids, device=response.device))
