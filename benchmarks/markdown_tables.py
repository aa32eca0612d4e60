"""Tables of the documentation, which stand between two comments that name them."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["divergence", "each_signed", "fill", "interval", "markdown_table", "with_error"]


def fill(page: str, tables: dict[str, str]) -> str:
    """Replaces the text between `<!-- numbers: NAME -->` and `<!-- end -->`."""
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- numbers: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        page = pattern.sub(lambda found, table=table: f"{found[1]}{table}{found[2]}", page)
    return page


def markdown_table(lines: list[list[str]]) -> str:
    """A table from its rows of cells, the head first."""
    head, *rows = lines
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))


def with_error(estimate: list[float]) -> str:
    """An estimate and its standard error."""
    return f"{estimate[0]:.3g} ± {estimate[1]:.2g}"


def interval(ends: list[float]) -> str:
    """The two ends of an interval of a difference."""
    return " to ".join(_signed(ends))


def each_signed(differences: list[float]) -> str:
    """Several differences, of training seeds say."""
    return ", ".join(_signed(differences))


def _signed(differences: list[float]) -> list[str]:
    digits = 2 if max(map(abs, differences), default=0.0) < 1 else 1
    return [f"{one:+.{digits}f}" for one in differences]


def divergence(row: dict[str, Any]) -> str:
    """The divergence of a row of [`rows_of`][benchmarks.pieces.rows_of]."""
    return f"{'≤ ' * row['kl is a bound']}{row['kl']:.2f}"
