"""The text of single tokens, which only their neighbours decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["TextPieces"]

_CONTEXT = 4  # tokens before: enough for tokenizers that drop the space of a text's first token
_LONGEST = 4  # bytes of a character, each of which may be a token
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class TextPieces:
    """Cuts a text into the pieces that its tokens contribute. Pieces of consecutive tokens make up the text.

    A character may be made of several tokens: the last of them carries it, and the others are empty.

    Args:
        tokenizer: What decodes ids.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._whole: list[int] = []  # tokens whose characters are complete
        self._open: list[int] = []  # tokens since then

    def begin(self, ids: Sequence[int]) -> None:
        """Takes a text that pieces are to follow."""
        self._whole, self._open = list(ids[-_CONTEXT:]), []

    def after(self, token: int) -> str:
        """What `token` would show if it came next."""
        return self._decode([*self._open, token])

    def add(self, token: int) -> str:
        """Puts `token` next, and gives its piece."""
        self._open.append(token)
        text = self._decode(self._open)
        if text.endswith(_UNFINISHED) and len(self._open) < _LONGEST:
            return ""
        self._close()
        return text

    def rest(self) -> str:
        """What was held back for a character that is not complete."""
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
