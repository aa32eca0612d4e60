"""Held-out preference pairs as token ids, for `rgtg-hf evaluate --pairs`."""

from __future__ import annotations

from typing import Any

from rgtg_hf.cli.errors import blame_input
from rgtg_hf.cli.preferences import check_columns, load_preferences
from rgtg_hf.rewards.pairs import pair_ids

__all__ = ["read_pairs"]


def read_pairs(name: str, tokenizer: Any) -> list[dict[str, Any]]:
    """Reads pairs as training does, without those that cannot be compared.

    Args:
        name: A file, folder or hub data set of preference rows.
        tokenizer: The reward models' tokenizer.

    Raises:
        UserError: If there are no such pairs.
    """
    rows = load_preferences(name, None, "train")
    check_columns(rows, name)
    with blame_input(f"--pairs: {name} cannot be used", (ValueError,)):
        pairs = [pair_ids(row, tokenizer) for row in rows]
    return [pair for pair in pairs if not pair["dropped"]]
