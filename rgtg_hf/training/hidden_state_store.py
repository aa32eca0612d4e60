"""Keeps hidden states of a frozen backbone on disk, where each is computed once.

In a folder, `settings.json` names the backbone, `hidden_states.bin` holds the bare numbers, and `index.jsonl` has a
line for each complete response. A line is written after its numbers, so a run that was killed goes on where it
stopped. New responses are added at the end, by one run at a time, which holds `lock`. Where the policy's candidates
are kept too, their ids and probabilities are in `candidate_ids.bin` and `candidate_probabilities.bin`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from rgtg_hf.rewards.model_state import input_device
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.parts import find_decoder
from rgtg_hf.rewards.policy_identity import fingerprint
from rgtg_hf.rewards.prompt_cache import shared_cache

__all__ = ["HiddenStateStore", "Response"]

logger = logging.getLogger(__name__)

Response = tuple[list[int], int]  # token ids, prompt included, and the length of the prompt


class HiddenStateStore:
    """Keeps the hidden state before each response token on disk.

    Args:
        directory: The folder. `add` creates it, and replaces hidden states of another backbone in it.
        model: A model whose backbone is frozen.
        policy: The policy of a steering head, where its candidates are kept too.
        top_k: How many of its most likely tokens are candidates.

    Attributes:
        index: For each response, by its key, the first row and the number of rows in the file.
    """

    def __init__(
        self,
        directory: str | Path,
        model: NextTokenRewardModel,
        policy: PreTrainedModel | None = None,
        top_k: int = 0,
    ) -> None:
        self.directory = Path(directory)
        self.model = model
        self.policy = policy
        self.top_k = top_k
        self.hidden_size = model.config.hidden_size
        self.dtype: torch.dtype = model.backbone.dtype
        self.index: dict[str, tuple[int, int]] = {}
        # The numbers that each file has for a token, and their type.
        self._columns: dict[str, tuple[int, torch.dtype]] = {"hidden_states": (self.hidden_size, self.dtype)}
        settings: dict[str, Any] = {
            "backbone": fingerprint(model.backbone),
            "dtype": str(self.dtype).removeprefix("torch."),
            "hidden_size": self.hidden_size,
        }
        if policy is not None:
            self._columns |= {"candidate_ids": (top_k, torch.int32), "candidate_probabilities": (top_k, torch.float32)}
            settings["top_k"] = top_k
        self._index_file = self.directory / "index.jsonl"
        self._mapped: dict[str, Tensor] = {}
        self._settings = json.dumps(settings)
        self._settings_file = self.directory / "settings.json"
        if self._is_ours():
            self._read_index()

    def _is_ours(self) -> bool:
        file = self._settings_file
        return file.is_file() and file.read_text(encoding="utf-8") == self._settings

    def _open(self) -> None:
        """Makes the folder ready for more responses, which other runs may have added too."""
        if not self._is_ours():
            for file in (self._settings_file, self._index_file, *map(self._file, self._columns)):
                file.unlink(missing_ok=True)
            self._settings_file.write_text(self._settings, encoding="utf-8")
        self._read_index()

    def _read_index(self) -> None:
        self.index = {}
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

    def add(self, responses: Iterable[Response], batch_size: int = 8, *, progress: bool = True) -> int:
        """Computes the missing hidden states, once other runs have added theirs to the folder.

        Args:
            responses: Token ids, prompt included, and the length of the prompt. A response that is there several times
                is read once.
            batch_size: Sequences per forward pass.
            progress: Whether to show a progress bar.

        Returns:
            The number of responses computed.

        Raises:
            ValueError: If a prompt is empty: the first token of a response needs a hidden state before it.
        """
        with self._alone():
            return self._add(responses, batch_size, progress)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two runs that add to a folder at once would write to the same rows."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("Another run is adding hidden states to %s. Waiting for it to end.", self.directory)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _add(self, responses: Iterable[Response], batch_size: int, progress: bool) -> int:
        self._open()
        missing: dict[str, Response] = {}
        for ids, prompt_length in responses:
            if prompt_length < 1:
                raise ValueError(
                    "A row has an empty prompt, so its responses' first tokens have no hidden state before them. Give "
                    "each prompt at least one token, such as the beginning-of-text token."
                )
            key = _key(ids, prompt_length)
            if key not in self.index:
                missing[key] = (ids, prompt_length)
        if not missing:
            self._mapped = {}
            return 0
        first = self.rows
        new = sum(len(ids) - prompt for ids, prompt in missing.values())
        self._mapped = self._map(first + new)
        description = "Computing hidden states"
        with tqdm(total=len(missing), desc=description, unit="response", disable=not progress) as bar:
            for batch in _batches(missing, batch_size):
                first = self._add_batch(batch, first)
                bar.update(len(batch))
        return len(missing)

    @torch.no_grad()
    def _add_batch(self, work: Sequence[tuple[str, Response]], first: int) -> int:
        device = input_device(self.model.backbone)
        cached, cache = self._read_prompt([response for _, response in work])
        longest = max(len(ids) for _, (ids, _) in work)
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for _, (ids, _) in work], device=device)
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for _, (ids, _) in work], device=device)
        needed = min(prompt for _, (_, prompt) in work) - 1
        found = self._read_batch(padded[:, cached:], mask, needed - cached, cache)
        lines = []
        for place, (key, (ids, prompt_length)) in enumerate(work):
            length = len(ids) - prompt_length
            for name, (start, values) in found.items():
                start += cached
                own = values[place, prompt_length - 1 - start : len(ids) - 1 - start]
                self._mapped[name][first : first + length] = own.to("cpu")
            self.index[key] = (first, length)
            lines.append(json.dumps([key, first, length]) + "\n")
            first += length
        with self._index_file.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        return first

    def _read_prompt(self, responses: Sequence[Response]) -> tuple[int, dict[str, Any]]:
        """Reads all but the last token of the prompt that several responses have.

        Returns:
            How many tokens were read, and their cache, with a row for each response; 0 and nothing if they have
            several prompts, or the model's cache cannot be shared.
        """
        prompts = {tuple(ids[:length]) for ids, length in responses}
        if len(responses) < 2 or len(prompts) > 1:
            return 0, {}
        *prompt, _ = prompts.pop()
        if not prompt:
            return 0, {}
        backbone = self.model.backbone
        ids = torch.tensor([prompt], device=input_device(backbone))
        read = partial(backbone, input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
        shared = shared_cache(backbone, len(prompt), read)
        for cache in shared.values():
            cache.reorder_cache(ids.new_zeros(len(responses)))  # type: ignore[arg-type]
        return (len(prompt), shared) if shared else (0, {})

    def _read_batch(
        self, input_ids: Tensor, mask: Tensor, first: int, cache: dict[str, Any]
    ) -> dict[str, tuple[int, Tensor]]:
        """For each file the column of the ids that its values begin with, and the values of all rows from there on.

        Candidates are not needed before column `first`. The mask is that of the columns in the cache, too.
        """
        cache = cache or {"use_cache": False}
        if self.policy is None:
            return {"hidden_states": (0, self.model.hidden_states(input_ids, mask, **cache))}
        hidden: list[Tensor] = []
        hook = find_decoder(self.policy).register_forward_hook(lambda *call: hidden.append(call[-1][0]))
        # Logits of long prompts would take gigabytes.
        can_choose = "logits_to_keep" in inspect.signature(self.policy.forward).parameters
        needed = torch.arange(first, input_ids.shape[1], device=input_ids.device)
        kept = {"logits_to_keep": needed} if can_choose else {}
        try:
            logits = self.policy(input_ids, attention_mask=mask, **cache, **kept).logits
        finally:
            hook.remove()
        candidates = logits.float().topk(self.top_k)
        start = first if can_choose else 0
        return {
            "hidden_states": (0, hidden[0]),
            "candidate_ids": (start, candidates.indices),
            "candidate_probabilities": (start, candidates.values.softmax(-1)),
        }

    def read(self, ids: Sequence[int], prompt_length: int) -> Tensor:
        """Reads the hidden states before each token of a response, shape `[response_length, hidden_size]`, on the CPU.

        Raises:
            KeyError: If they were not computed before.
        """
        return self._read("hidden_states", ids, prompt_length)

    def read_candidates(self, ids: Sequence[int], prompt_length: int) -> tuple[Tensor, Tensor]:
        """Reads what the policy might have written in place of each token of a response.

        Returns:
            Ids, int32, and probabilities, float32, each of shape `[response_length, top_k]`, on the CPU.

        Raises:
            KeyError: If they were not computed before.
        """
        found = self._read("candidate_ids", ids, prompt_length)
        return found, self._read("candidate_probabilities", ids, prompt_length)

    def _read(self, name: str, ids: Sequence[int], prompt_length: int) -> Tensor:
        key = _key(ids, prompt_length)
        if key not in self.index:
            raise KeyError(
                "A response has no hidden states on disk. Add it first, by "
                "`trainer.data_collator.store.add([(ids, prompt_length)])`, or give the data set when the trainer is "
                "made."
            )
        if not self._mapped:
            self._mapped = self._map(self.rows)
        start, length = self.index[key]
        return self._mapped[name][start : start + length]

    def _map(self, rows: int) -> dict[str, Tensor]:
        return {
            name: torch.from_file(str(self._file(name)), shared=True, size=rows * width, dtype=dtype).view(rows, -1)
            for name, (width, dtype) in self._columns.items()
        }

    def _file(self, name: str) -> Path:
        return self.directory / f"{name}.bin"


def _batches(missing: dict[str, Response], size: int) -> Iterator[list[tuple[str, Response]]]:
    """Responses to be read together, of like length, so that little padding is computed.

    Where prompts have many responses, a batch is of one prompt, which is read once for it. The longest come first, to
    estimate the time left.
    """
    by_prompt: dict[tuple[int, ...], list[tuple[str, Response]]] = defaultdict(list)
    for key, (ids, length) in missing.items():
        by_prompt[tuple(ids[:length])].append((key, (ids, length)))
    groups = list(by_prompt.values())
    if 2 * len(missing) < size * len(groups):
        groups = [list(missing.items())]
    for group in groups:
        group.sort(key=_length, reverse=True)
    for group in sorted(groups, key=lambda group: _length(group[0]), reverse=True):
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _length(item: tuple[str, Response]) -> int:
    return len(item[1][0])


def _key(ids: Sequence[int], prompt_length: int) -> str:
    return hashlib.sha256(json.dumps([prompt_length, *ids]).encode()).hexdigest()[:24]
