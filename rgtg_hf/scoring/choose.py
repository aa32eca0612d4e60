"""The choice of a scorer for a reward model, by trying it once on a few tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.rewards.checks import vocabulary_size
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.scoring.expand import ExpandScorer
from rgtg_hf.scoring.next_token import NextTokenScorer
from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.scorer import CandidateRewards, PrefixBatch, Scorer
from rgtg_hf.scoring.sequences import BranchReader, SequenceReader, SharedPrefixReader, WholeReader
from rgtg_hf.scoring.tree import TreeScorer

__all__ = ["SCORERS", "choose_reader", "choose_scorer", "probe", "probe_reader"]

SCORERS: dict[str, Callable[[Any], Scorer]] = {
    "tree": TreeScorer,
    "expand": ExpandScorer,
    "next_token": NextTokenScorer,
    "reference": ReferenceScorer,
}
_LONGEST_WINDOW_PROBED = 64
_chosen: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()
_readers: WeakKeyDictionary[PreTrainedModel, Callable[[PreTrainedModel], SequenceReader]] = WeakKeyDictionary()
# Whatever an architecture does when it is fed masks or caches that it does not know.
_REFUSALS = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


def choose_scorer(reward_model: PreTrainedModel, name: str = "auto") -> Scorer:
    """Makes the fastest scorer that is right for a reward model.

    Whether an architecture's candidates can be read as siblings cannot be told from its name: some fail loudly, some
    silently. So each scorer is compared with whole sequences on a few tokens, once per model.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label, or a `NextTokenRewardModel`.
        name: `"auto"`, or one of `"tree"` (siblings in one pass), `"expand"` (a row per candidate), `"next_token"`
            (all candidates from one token), `"reference"` (whole sequences) to have just that one, unprobed.

    Returns:
        A new scorer with nothing kept.

    Raises:
        ValueError: If `name` is none of these, or does not serve the reward model.
    """
    if name == "auto":
        if reward_model not in _chosen:
            kinds = ("next_token",) if isinstance(reward_model, NextTokenRewardModel) else ("tree", "expand")
            _chosen[reward_model] = next((kind for kind in kinds if probe(reward_model, kind)), "reference")
        name = _chosen[reward_model]
    elif name not in SCORERS:
        raise ValueError(f"Unknown scorer {name!r}: choose one of {['auto', *SCORERS]}.")
    elif isinstance(reward_model, NextTokenRewardModel) and name in ("tree", "expand"):
        raise ValueError(
            f"The scorer {name!r} reads candidates, which a {type(reward_model).__name__} rates before they are read: "
            "choose one of ['auto', 'next_token', 'reference']."
        )
    return SCORERS[name](reward_model)


def probe(reward_model: PreTrainedModel, name: str) -> bool:
    """Whether a scorer gives a reward model's true rewards.

    The probe is a small generation: a left-padded batch of two, some steps, a swap of rows, a dropped token. Where
    the model has a short sliding window, it goes past it.

    Args:
        reward_model: The model, in evaluation mode.
        name: The scorer's name.

    Returns:
        True if every reward is that of the whole sequence, to within rounding; False if not, or if the model refuses.
    """
    try:
        scorer = SCORERS[name](reward_model)
        reference = ReferenceScorer(reward_model)
        return all(
            _agree(_steered(scorer.score(*step)), _steered(reference.score(*step)), reward_model.dtype)  # type: ignore[arg-type]
            for step in _probe_steps(reward_model)
        )
    except _REFUSALS:
        return False


def choose_reader(reward_model: PreTrainedModel, name: str = "auto") -> SequenceReader:
    """Makes the fastest reader of retokenized texts that is right for a reward model.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label.
        name: `"auto"`, or `"reference"` for whole sequences.

    Returns:
        A new reader with nothing kept.

    Raises:
        ValueError: If `name` is neither.
    """
    if name not in ("auto", "reference"):
        raise ValueError(f"The scorer {name!r} does not read text: choose one of ['auto', 'reference'].")
    if name == "reference":
        return WholeReader(reward_model)
    if reward_model not in _readers:
        kinds = (BranchReader, SharedPrefixReader)
        _readers[reward_model] = next((kind for kind in kinds if probe_reader(reward_model, kind)), WholeReader)
    return _readers[reward_model](reward_model)


def probe_reader(reward_model: PreTrainedModel, kind: Callable[[PreTrainedModel], SequenceReader]) -> bool:
    """Whether a reader gives a model's true rewards to sequences that share a beginning and differ in length."""
    length = _probe_length(reward_model)
    size = vocabulary_size(reward_model)
    generator = torch.Generator().manual_seed(0)
    long, short = (torch.randint(size, (length + n,), generator=generator).tolist() for n in (4, 2))
    other = [(token + 7) % size for token in long]
    try:
        reader, whole = kind(reward_model), WholeReader(reward_model)
        for rows in (
            [[long[:length], long[: length + 1]], [short[: length - 3], short[: length - 3] + other[:2]]],
            [[long[: length + 2], long[: length + 3]], [short[: length - 2], short[: length - 2] + other[:3]]],
            [[short[:length], short[: length - 1] + other[:1]], [long[:length] + other[:1], long[: length + 2]]],
        ):
            if not _agree(reader.read(rows), whole.read(rows), reward_model.dtype):  # type: ignore[arg-type]
                return False
        return True
    except _REFUSALS:
        return False


def _probe_length(reward_model: PreTrainedModel) -> int:
    """A few tokens, or a few more than a short sliding window."""
    config = reward_model.config.get_text_config()  # type: ignore[operator, union-attr]
    window = getattr(config, "sliding_window", None) or 0
    return 6 + (window if window <= _LONGEST_WINDOW_PROBED else 0)


def _probe_steps(reward_model: PreTrainedModel) -> list[tuple[PrefixBatch, Tensor]]:
    length = _probe_length(reward_model)
    size = vocabulary_size(reward_model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(size, (2, length + 4), generator=generator).to(next(reward_model.parameters()).device)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    candidates = ids[:, :3] + torch.arange(3, device=ids.device) * 7

    def step(columns: int, order: list[int], base_length: int | None = None) -> tuple[PrefixBatch, Tensor]:
        prefixes = PrefixBatch(ids[order, :columns], mask[order, :columns], length, base_length or columns)
        return prefixes, candidates[order] % size

    return [
        step(length, [0, 1]),
        step(length + 1, [0, 1]),
        step(length + 3, [1, 0], base_length=length + 2),
        step(length + 2, [1, 0]),
        step(length + 3, [1, 1]),
    ]


def _steered(rewards: CandidateRewards) -> Tensor:
    """What decoding uses: the differences. Where their zero lies is the scorer's own business."""
    return rewards.candidates - rewards.base[:, None]


def _agree(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    # Half precision differs between a pass of one token and a pass of many; a wrong mask differs by far more.
    tolerance = 1e-3 if torch.finfo(dtype).eps < 1e-4 else 5e-2
    return torch.allclose(one, other, atol=tolerance * max(1.0, float(other.abs().max())), rtol=0.0)
