"""Keeps what belongs together on one line in the tables of the site: figures with their errors, and intervals."""

import re
from typing import Any

_CELL = re.compile(r"<td[^>]*>.*?</td>", re.DOTALL)
_TOGETHER = re.compile(r"(?<=[\d%]) ± (?=\d)|(?<=≤) (?=\d)|(?<=\d,) (?=[-+]?\d[\d.]*\])")


def on_page_content(html: str, **_: Any) -> str:
    """The page with spaces that do not break inside figures of tables."""
    return _CELL.sub(lambda cell: _TOGETHER.sub(_without_break, cell[0]), html)


def _without_break(found: re.Match[str]) -> str:
    return found[0].replace(" ", "\N{NO-BREAK SPACE}")
