"""Preference data from the hub or from local files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.lines import json_rows, text_lines

__all__ = ["check_columns", "load_preferences"]

_BUILDERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


def load_preferences(name: str, config: str | None, split: str, *, streaming: bool = False) -> Any:
    """Loads preference pairs.

    Args:
        name: A data set's name on the hub, a file (json, jsonl, csv, parquet; the text formats also compressed as
            `.gz`, `.bz2`, `.xz`, `.zst`), or a folder of such files.
        config: The configuration of a hub data set.
        split: The split. A single local file is the `train` split.
        streaming: Read rows when they are needed instead of all at once.

    Returns:
        A `datasets.Dataset`, or an `IterableDataset` with `streaming`.

    Raises:
        UserError: If the data do not exist, cannot be read, or have no such split.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    path = Path(name).expanduser()
    options: dict[str, Any] = {"split": split, "streaming": streaming}
    for file in [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []:
        _check_lines(file)
    with blame_input(f"--dataset_name: {name} cannot be read", (OSError, ValueError, DatasetsError)):
        if path.is_file():
            try:
                return load_dataset(_builder(path), data_files={"train": str(path)}, **options)
            except StopIteration:  # the JSON reader raises it for an empty file
                raise UserError(f"--dataset_name: {name} has no rows") from None
        if not path.exists() and (name.startswith((".", "/", "~")) or _suffix(path) in _BUILDERS):
            raise UserError(f"--dataset_name: {name} does not exist")
        return load_dataset(str(path) if path.is_dir() else name, name=config, **options)


def check_columns(dataset: Any, name: str, columns: Sequence[str] = ("chosen", "rejected")) -> None:
    """Checks that the first row has the columns that training needs, those of preference pairs by default.

    Args:
        dataset: A data set, streaming or not.
        name: Its name, for the message.
        columns: The columns. Instead of a column of text there may be one of ids, `chosen_ids` for example.

    Raises:
        UserError: If there are no rows, or a column is missing.
    """
    row = next(iter(dataset), None)
    if row is None:
        raise UserError(f"--dataset_name: {name} has no rows")
    missing = [column for column in columns if not {column, f"{column}_ids"} & row.keys()]
    if missing:
        *others, last = (f"`{column}`" for column in columns)
        needed = f"{', '.join(others)} and {last}" + ("" if "prompt" in columns else ", and may have `prompt`")
        raise UserError(
            f"--dataset_name: {name} has no column {' and no column '.join(missing)} (it has: {', '.join(row)}); "
            f"rows need {needed}"
        )


def _check_lines(file: Path) -> None:
    """Finds broken lines, because the readers of `datasets` do not name the line, or accept it."""
    if file.name.startswith(".") or not file.is_file() or file.suffix == ".zst":
        return
    read: Any = {".jsonl": json_rows, ".csv": text_lines}.get(_suffix(file), lambda *arguments: ())
    for _ in read("--dataset_name", file):
        pass


def _suffix(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix not in _COMPRESSIONS]
    return suffixes[-1] if suffixes else ""


def _builder(path: Path) -> str:
    suffix = _suffix(path)
    if suffix not in _BUILDERS:
        raise UserError(
            f"--dataset_name: {path} has an unknown format; give json, jsonl, csv or parquet "
            f"(the text formats also with {', '.join(_COMPRESSIONS)})"
        )
    return _BUILDERS[suffix]
