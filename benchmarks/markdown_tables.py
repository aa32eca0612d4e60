"""Tables of the documentation, which stand between two comments that name them."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["divergence", "fill", "interval", "markdown_table", "with_error"]


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
    digits = 2 if max(map(abs, ends)) < 1 else 1
    return " to ".join(f"{end:+.{digits}f}" for end in ends)


def divergence(row: dict[str, Any]) -> str:
    """The divergence of a row of [`rows_of`][benchmarks.pieces.rows_of]."""
    return f"{'≤ ' * row['kl is a bound']}{row['kl']:.2f}"
