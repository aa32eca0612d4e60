"""Computes a frozen backbone's hidden states once, and keeps them on disk for all epochs and runs.

A folder holds three files: `settings.json` names the backbone, `hidden_states.bin` holds the bare numbers, and
`index.jsonl` has a line for each complete response. A line is written after its numbers, so a run that was killed goes
on where it stopped. New responses are added at the end.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from rgtg_hf.rewards.model_state import input_device
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.pairs import TOKENIZED
from rgtg_hf.rewards.policy_identity import fingerprint
from rgtg_hf.training.data import PrefixCollator
from rgtg_hf.training.prefix_reward_config import PrefixRewardConfig

__all__ = ["HiddenStateCollator", "HiddenStateStore", "keep_hidden_states"]


class HiddenStateStore:
    """Keeps the hidden state before each response token on disk.

    Args:
        directory: The folder. It is created if needed; hidden states of another backbone in it are replaced.
        model: A model whose backbone is frozen.

    Attributes:
        index: For each response, by its key, the first row and the number of rows in the file.
    """

    def __init__(self, directory: str | Path, model: NextTokenRewardModel) -> None:
        self.directory = Path(directory)
        self.model = model
        self.hidden_size = model.config.hidden_size
        self.dtype: torch.dtype = model.backbone.dtype
        self.index: dict[str, tuple[int, int]] = {}
        self._file = self.directory / "hidden_states.bin"
        self._index_file = self.directory / "index.jsonl"
        self._mapped: Tensor | None = None
        settings = json.dumps(
            {
                "backbone": fingerprint(model.backbone),
                "dtype": str(self.dtype).removeprefix("torch."),
                "hidden_size": self.hidden_size,
            }
        )
        settings_file = self.directory / "settings.json"
        self.directory.mkdir(parents=True, exist_ok=True)
        if settings_file.is_file() and settings_file.read_text(encoding="utf-8") == settings:
            self._read_index()
        else:
            for file in (settings_file, self._index_file, self._file):
                file.unlink(missing_ok=True)
            settings_file.write_text(settings, encoding="utf-8")

    def _read_index(self) -> None:
        lines = self._index_file.read_text(encoding="utf-8") if self._index_file.is_file() else ""
        complete = lines[: lines.rfind("\n") + 1]
        for line in complete.splitlines():
            key, start, length = json.loads(line)
            self.index[key] = (start, length)
        if complete != lines:  # the last line was cut short
            self._index_file.write_text(complete, encoding="utf-8")

    @property
    def rows(self) -> int:
        """Number of complete hidden states."""
        return max((start + length for start, length in self.index.values()), default=0)

    def add(self, rows: Iterable[dict[str, Any]], batch_size: int = 8, *, progress: bool = True) -> int:
        """Computes the missing hidden states for the responses of some rows.

        Args:
            rows: Rows with `chosen_ids`, `rejected_ids` and `prompt_length`. A response that several rows share is
                read once.
            batch_size: Sequences per forward pass.
            progress: Whether to show a progress bar.

        Returns:
            The number of responses computed.

        Raises:
            ValueError: If a row has an empty prompt: the first token of a response needs a hidden state before it.
        """
        missing: dict[str, tuple[list[int], int]] = {}
        for row in rows:
            if row["prompt_length"] < 1:
                raise ValueError(
                    "A row has an empty prompt, so its responses' first tokens have no hidden state before them. Give "
                    "each prompt at least one token, such as the beginning-of-text token."
                )
            for column in TOKENIZED:
                key = _key(row[column], row["prompt_length"])
                if key not in self.index:
                    missing[key] = (row[column], row["prompt_length"])
        # Sorted by length, so that little padding is computed; the longest first, to estimate the time left.
        work = sorted(missing.items(), key=lambda item: len(item[1][0]), reverse=True)
        if not work:
            return 0
        first = self.rows
        new = sum(len(ids) - prompt for _, (ids, prompt) in work)
        self._mapped = self._map(first + new)
        description = "Computing hidden states"
        with tqdm(total=len(work), desc=description, unit="response", disable=not progress) as bar:
            for start in range(0, len(work), batch_size):
                first = self._add_batch(work[start : start + batch_size], first)
                bar.update(len(work[start : start + batch_size]))
        return len(work)

    @torch.no_grad()
    def _add_batch(self, work: Sequence[tuple[str, tuple[list[int], int]]], first: int) -> int:
        assert self._mapped is not None
        device = input_device(self.model.backbone)
        longest = max(len(ids) for _, (ids, _) in work)
        input_ids = torch.tensor([ids + [0] * (longest - len(ids)) for _, (ids, _) in work], device=device)
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for _, (ids, _) in work], device=device)
        hidden = self.model.hidden_states(input_ids, mask, use_cache=False)
        lines = []
        for row, (key, (ids, prompt_length)) in zip(hidden, work, strict=True):
            length = len(ids) - prompt_length
            self._mapped[first : first + length] = row[prompt_length - 1 : len(ids) - 1].to("cpu")
            self.index[key] = (first, length)
            lines.append(json.dumps([key, first, length]) + "\n")
            first += length
        with self._index_file.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        return first

    def read(self, ids: Sequence[int], prompt_length: int) -> Tensor:
        """Reads the hidden states before each token of a response, shape `[response_length, hidden_size]`, on the CPU.

        Raises:
            KeyError: If they were not computed before.
        """
        key = _key(ids, prompt_length)
        if key not in self.index:
            raise KeyError(
                "A response has no hidden states on disk. Add its row first, by "
                "`trainer.data_collator.store.add(rows)`, or give the data set when the trainer is made."
            )
        if self._mapped is None:
            self._mapped = self._map(self.rows)
        start, length = self.index[key]
        return self._mapped[start : start + length]

    def _map(self, rows: int) -> Tensor:
        size = rows * self.hidden_size
        return torch.from_file(str(self._file), shared=True, size=size, dtype=self.dtype).view(rows, -1)


class HiddenStateCollator:
    """Makes batches that hold their hidden states, so that the backbone need not run.

    Only the last token of each prompt is kept, since the rewards of its earlier prefixes are the same for both
    responses. So `prompt_length` is 1.

    Args:
        store: Holds the hidden states.
        collator: Makes everything else.
    """

    def __init__(self, store: HiddenStateStore, collator: PrefixCollator) -> None:
        self.store = store
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Adds `hidden_states` of shape `[2B, S, hidden_size]` to the collator's batch, zero where none is needed."""
        short = [
            {**row, **{column: row[column][row["prompt_length"] - 1 :] for column in TOKENIZED}, "prompt_length": 1}
            for row in rows
        ]
        batch = self.collator(short)
        hidden = torch.zeros(*batch["input_ids"].shape, self.store.hidden_size, dtype=self.store.dtype)
        sequences = [(row[column], row["prompt_length"]) for column in TOKENIZED for row in rows]
        for target, (ids, prompt_length) in zip(hidden, sequences, strict=True):
            known = self.store.read(ids, prompt_length)
            target[: len(known)] = known
        return batch | {"hidden_states": hidden}


def keep_hidden_states(
    model: NextTokenRewardModel, datasets: Sequence[Any], args: PrefixRewardConfig, collator: PrefixCollator
) -> HiddenStateCollator:
    """Computes the hidden states of all responses that are not on disk yet.

    Args:
        model: A model whose backbone is frozen.
        datasets: Prepared training and evaluation sets, or `None` for a missing one.
        args: Gives the folder, the batch size of evaluation, and whether progress is shown.
        collator: Makes the rest of a batch.

    Returns:
        A collator whose batches carry hidden states.
    """
    directory = Path(args.hidden_states_dir or Path(args.output_dir or ".", "hidden_states"))
    rows = itertools.chain.from_iterable(dataset for dataset in datasets if dataset is not None)
    with args.main_process_first(desc="computing hidden states"):
        store = HiddenStateStore(directory, model)
        store.add(rows, args.per_device_eval_batch_size, progress=not args.disable_tqdm)
    if model.score.is_linear:
        some = itertools.islice(datasets[0], 500)
        model.score.center(torch.cat([store.read(row[c], row["prompt_length"]) for row in some for c in TOKENIZED]))
    return HiddenStateCollator(store, collator)


def _key(ids: Sequence[int], prompt_length: int) -> str:
    return hashlib.sha256(json.dumps([prompt_length, *ids]).encode()).hexdigest()[:24]
