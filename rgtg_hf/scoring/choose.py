"""The choice of a scorer for a reward model, by trying it once on a few tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rgtg_hf.private_names import attention_kind
from rgtg_hf.rewards.causal_classifier import vocabulary_size
from rgtg_hf.rewards.model_state import input_device
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.rewards.prompt_cache import is_recurrent
from rgtg_hf.scoring.expand import ExpandScorer
from rgtg_hf.scoring.hybrid import HybridScorer
from rgtg_hf.scoring.next_token_scorer import NextTokenScorer
from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.scorer import PrefixBatch, Scorer
from rgtg_hf.scoring.siblings import SiblingScorer
from rgtg_hf.scoring.text.sequences import SequenceReader, SiblingReader, WholeReader

__all__ = ["READERS", "SCORERS", "Verdict", "choose_reader", "choose_scorer", "probe", "probe_reader"]

logger = logging.getLogger(__name__)

SCORERS: dict[str, Callable[..., Scorer]] = {
    "siblings": SiblingScorer,
    "hybrid": HybridScorer,
    "expand": ExpandScorer,
    "next_token": NextTokenScorer,
    "reference": ReferenceScorer,
}
_PADDED = "next_token_padded"  # stands in for "next_token" where that fails; nobody has to know its name
_STAND_INS: dict[str, Callable[..., Scorer]] = {_PADDED: partial(NextTokenScorer, padded=True)}
_RECORDED = ("siblings", "next_token")
READERS: dict[str, Callable[[Any], SequenceReader]] = {
    "siblings": SiblingReader,
    "reference": WholeReader,
}
_COSTS = {
    _PADDED: "looks at the device several times at each step",
    "expand": "copies the reward model's cache once per candidate at each step",
    "reference": "reads the whole sequence again for every candidate at each step",
}
_FASTEST = {False: ("siblings", "expand"), True: ("hybrid", "expand")}  # by whether a model has recurrent layers
_LONGEST_WINDOW_PROBED = 64

# The errors that architectures raise when they are given masks or caches that they do not know.
_REFUSALS = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
# The errors of a device, which say nothing about the architecture. AcceleratorError is new in torch 2.8.
_DEVICE_ERRORS = (MemoryError, torch.OutOfMemoryError, getattr(torch, "AcceleratorError", MemoryError))
_DEVICE_MESSAGES = ("out of memory", "can't allocate memory", "CUDA error", "HIP error", "_ALLOC_FAILED")


class Verdict(NamedTuple):
    """The result of a probe.

    Attributes:
        right: Whether every increment is that of the reference, to within rounding.
        reason: If not, why, to go on with after the name of the scorer.
        final: Whether this holds for good. A probe that could not be run, for want of memory for example, is not.
    """

    right: bool
    reason: str = ""
    final: bool = True


# For each model the verdicts by what was probed: the class, and the settings of the model that matter.
_verdicts: WeakKeyDictionary[PreTrainedModel, dict[tuple[object, ...], Verdict]] = WeakKeyDictionary()
_warned: WeakKeyDictionary[PreTrainedModel, set[str]] = WeakKeyDictionary()


def choose_scorer(reward_model: PreTrainedModel, name: str = "auto", use_cuda_graph: bool = False) -> Scorer:
    """Makes the fastest scorer that is right for a reward model.

    The name of an architecture does not tell whether its candidates can be read as siblings: some fail with an error,
    some give wrong rewards. So each scorer is compared with whole sequences on a few tokens, once per model. If a
    slower one has to be used, a warning is logged.

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label, or a `NextTokenRewardModel`.
        name: `"auto"`, or one of `"siblings"` (all candidates in one pass), `"hybrid"` (a state per candidate, over
            shared keys and values), `"expand"` (a cache per candidate), `"next_token"` (all candidates from one
            token), `"reference"` (whole sequences) to use that one without a probe.
        use_cuda_graph: Whether the steps of a scorer that can be recorded run as a CUDA graph.

    Returns:
        A new scorer with nothing kept.

    Raises:
        ValueError: If `name` is none of these, or does not serve the reward model.
    """
    scores_first = isinstance(reward_model, NextTokenRewardModel)
    if name == "auto":
        fastest = ("next_token", _PADDED) if scores_first else _FASTEST[is_recurrent(reward_model)]
        name = _fastest(reward_model, (*fastest, "reference"), probe)
    elif name not in SCORERS:
        raise ValueError(f"Unknown scorer {name!r}: choose one of {['auto', *SCORERS]}.")
    elif scores_first and name == "next_token":
        name = _fastest(reward_model, ("next_token", _PADDED), probe)
    elif scores_first and name in ("siblings", "hybrid", "expand"):
        raise ValueError(
            f"The scorer {name!r} reads candidates, but a {type(reward_model).__name__} scores them before they are "
            "read: choose one of ['auto', 'next_token', 'reference']."
        )
    if use_cuda_graph and name in _RECORDED:
        return SCORERS[name](reward_model, use_cuda_graph=True)
    if use_cuda_graph:
        logger.warning("The scorer %r runs without a CUDA graph, since its shapes change at every step.", name)
    return _scorer_class(name)(reward_model)


def _scorer_class(name: str) -> Callable[..., Scorer]:
    return SCORERS.get(name) or _STAND_INS[name]


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
    if name == "auto":
        name = _fastest(reward_model, tuple(READERS), probe_reader)
    return READERS[name](reward_model)


def _fastest(
    reward_model: PreTrainedModel, names: Sequence[str], probe_one: Callable[[PreTrainedModel, str], Verdict]
) -> str:
    """The first name that is right, or the last one, which needs no probe. A warning says why others are not used."""
    failed: dict[str, Verdict] = {}
    for name in names[:-1]:
        verdict = probe_one(reward_model, name)
        if verdict.right:
            break
        failed[name] = verdict
    else:
        name = names[-1]
    if failed:
        reasons = "; ".join(f"{other!r} {verdict.reason}" for other, verdict in failed.items())
        message = f"{type(reward_model).__name__} uses the slower scorer {name!r}, which {_COSTS[name]}: {reasons}."
        passing = [other for other, verdict in failed.items() if not verdict.final]
        if passing:
            message += f" The next processor will try {passing} again."
        warned = _warned.setdefault(reward_model, set())
        if passing or message not in warned:
            logger.warning(message)
        warned.add(message)
    return name


def probe(reward_model: PreTrainedModel, name: str) -> Verdict:
    """Tries whether a scorer gives a reward model's true increments, once per model, dtype and kind of attention.

    The probe is a small generation: a left-padded batch of two, some steps, a row that lies behind, a swap of rows, a
    dropped token. Where the model has a short sliding window, it goes past it.

    Args:
        reward_model: The model, in evaluation mode.
        name: The scorer's name.
    """

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        scorer, reference = _scorer_class(name)(reward_model), ReferenceScorer(reward_model)
        for step in _probe_steps(reward_model):
            yield scorer.score(*step), reference.score(*step)

    return _tried(reward_model, _scorer_class(name), pairs())


def probe_reader(reward_model: PreTrainedModel, name: str) -> Verdict:
    """Does the same for a reader, with sequences that share a beginning and differ in length."""
    length, size = _probe_length(reward_model), vocabulary_size(reward_model)
    generator = torch.Generator().manual_seed(0)
    long, short = (torch.randint(size, (length + n,), generator=generator).tolist() for n in (4, 2))
    other = [(token + 7) % size for token in long]

    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        readers = READERS[name](reward_model), WholeReader(reward_model)
        for prefixes, continuations in (
            ([long[:length], short[: length - 3]], [[[], long[length : length + 1]], [[], other[:2]]]),
            ([long[: length + 2], short[: length - 3]], [[[], long[length + 2 : length + 3]], []]),
            ([long[: length + 2], short[: length - 2]], [[[], other[:1]], [[], other[:3]]]),
            ([short[: length - 1], long[:length]], [[short[length - 1 : length], other[:1]], [other[:1], long[-4:]]]),
        ):
            found, expected = (list(chain(*reader.read(prefixes, continuations))) for reader in readers)
            yield torch.tensor(found), torch.tensor(expected)

    return _tried(reward_model, READERS[name], pairs())


def _tried(reward_model: PreTrainedModel, kind: object, pairs: Iterator[tuple[Tensor, Tensor]]) -> Verdict:
    """The verdict on pairs of found and expected values, remembered if it is final."""
    key = (kind, reward_model.dtype, attention_kind(reward_model))
    known = _verdicts.setdefault(reward_model, {})
    if key in known:
        return known[key]
    try:
        size = _size_of_rewards(reward_model)
        verdicts = (_compared(found, expected, reward_model, size) for found, expected in pairs)
        # A fresh head may give 0 whatever is read, so that everything seems to be right.
        verdict = next((one for one in verdicts if not one.right), Verdict(True, final=size > 0))
    except (*_REFUSALS, *_DEVICE_ERRORS) as error:
        shown = f"({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        if isinstance(error, _DEVICE_ERRORS) or any(text in str(error) for text in _DEVICE_MESSAGES):
            verdict = Verdict(False, f"could not be tried {shown}", final=False)
        else:
            verdict = Verdict(False, f"is refused by the model {shown}")
    if verdict.final:
        known[key] = verdict
    return verdict


@torch.no_grad()
def _size_of_rewards(reward_model: PreTrainedModel) -> float:
    """The largest absolute reward of some prefixes, which rounding is proportional to."""
    ids = _probe_steps(reward_model)[0][0].input_ids[:1]
    return float(prefix_rewards(reward_model, ids).abs().max())


def _compared(found: Tensor, expected: Tensor, reward_model: PreTrainedModel, size: float) -> Verdict:
    if not bool(torch.isfinite(expected).all()):
        return Verdict(False, "could not be tried (the model's own rewards are not finite)", final=False)
    # Half precision differs between a pass of one token and a pass of many; a wrong mask differs by far more.
    tolerance = 1e-3 if torch.finfo(reward_model.dtype).eps < 1e-4 else 5e-2  # type: ignore[arg-type]
    scale, difference = max(size, float(expected.abs().max())), float((found - expected).abs().max())
    if difference <= tolerance * scale:
        return Verdict(True)
    return Verdict(False, f"is not right (differs by {difference:.2g} from whole sequences, of size {scale:.2g})")


def _probe_length(reward_model: PreTrainedModel) -> int:
    """A few tokens, or a few more than a short sliding window."""
    config = reward_model.config.get_text_config()  # type: ignore[operator, union-attr]
    window = getattr(config, "sliding_window", None) or 0
    return 6 + (window if window <= _LONGEST_WINDOW_PROBED else 0)


def _probe_steps(reward_model: PreTrainedModel) -> list[tuple[PrefixBatch, Tensor, Tensor]]:
    length = _probe_length(reward_model)
    size = vocabulary_size(reward_model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(size, (2, length + 4), generator=generator).to(input_device(reward_model))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    candidates = ids[:, length : length + 1] + torch.arange(3, device=ids.device) * 7  # the next token is among them

    def step(columns: int, order: list[int], wanted_rows: list[int]) -> tuple[PrefixBatch, Tensor, Tensor]:
        wanted = torch.zeros_like(candidates, dtype=torch.bool)
        wanted[wanted_rows] = True
        return PrefixBatch(ids[order, :columns], mask[order, :columns], length), candidates[order] % size, wanted

    return [
        step(length, [0, 1], [0, 1]),
        step(length + 1, [0, 1], [1]),
        step(length + 3, [1, 0], [0, 1]),
        step(length + 2, [1, 0], [0, 1]),
        step(length + 3, [1, 1], [0, 1]),
    ]
