"""Trains a reward model on preference rows (needs the `train` extra)."""

from importlib.util import find_spec

for _package in ("trl", "datasets", "accelerate"):
    if find_spec(_package) is None:
        raise ImportError(
            f"Training needs the package `{_package}`, which is not installed. Install what training needs with "
            "`pip install 'rgtg-hf[train]'`."
        )
