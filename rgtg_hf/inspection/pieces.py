"""The text of single tokens, which depends on the tokens around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["TextPieces"]

_CONTEXT = 4  # earlier tokens, for tokenizers that drop the space before the first token of a text
_LONGEST = 4  # bytes of a character, each of which may be a token
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class TextPieces:
    """Cuts a text into one piece per token. The pieces of consecutive tokens join to the text.

    If several tokens make up one character, the piece of the last one has it, and the others are empty.

    Args:
        tokenizer: The tokenizer that decodes ids.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._whole: list[int] = []  # tokens whose characters are complete
        self._open: list[int] = []  # the tokens after them

    def begin(self, ids: Sequence[int]) -> None:
        """Starts after the tokens of a text."""
        self._whole, self._open = list(ids[-_CONTEXT:]), []

    def after(self, token: int) -> str:
        """The text of `token` if it came next."""
        return self._decode([*self._open, token])

    def add(self, token: int) -> str:
        """Appends `token` and returns its piece."""
        self._open.append(token)
        text = self._decode(self._open)
        if text.endswith(_UNFINISHED) and len(self._open) < _LONGEST:
            return ""
        self._close()
        return text

    def rest(self) -> str:
        """The text of the last tokens, if their character was never completed."""
        text = self._decode(self._open) if self._open else ""
        self._close()
        return text

    def _close(self) -> None:
        self._whole = [*self._whole, *self._open][-_CONTEXT:]
        self._open = []

    def _decode(self, ids: list[int]) -> str:
        before, text = (
            self._tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            for part in (self._whole, [*self._whole, *ids])
        )
        return text[len(before) :] if text.startswith(before) else self._tokenizer.decode(ids)
