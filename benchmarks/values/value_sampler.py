"""Samples what models trained on rollouts guide or choose, for the held-out prompts of the paper's table."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from benchmarks.paper.sample import HEAD_BETAS
from benchmarks.search.search_sampler import SearchSampler
from rgtg_hf.rewards.value_model import as_reward_model, bins_of

__all__ = ["ValueSampler"]

# b times the range of rewards, so that it means the same for every gold reward.
VALUE_BETAS = (0.0, 4.0, 16.0)
EXACT = (8.0, 32.0)  # value_beta = beta, times the range
SIZES = (4, 8)  # rows of block-wise best-of-n
HALVED = 16


class ValueSampler(SearchSampler):
    """Writes the missing pieces of one task and seed, by value models and by rewards of pairs of the same rollouts.

    What the names of methods call `rollouts` is the reward model of pairs, and `head_rollouts` a steering head.
    """

    order: ClassVar[tuple[str, ...]] = (
        "policy",
        "value",
        "pargs_rollouts",
        "head_rollouts",
        "exact",
        "blockwise",
        "best_of_n",
        "halving",
        "guided_blockwise",
    )

    scorers: ClassVar[tuple[str, ...]] = ("value", "rollouts")
    value_betas: ClassVar[tuple[float, ...]] = VALUE_BETAS
    sizes: ClassVar[tuple[int, ...]] = SIZES
    guide: ClassVar[str] = "rollouts_head"  # the head that guides the rows of a search

    def _value(self) -> None:
        """Tokenwise, V_b for several b, at strengths that reach the target divergences."""
        if (model := self._reward_model("value")) is None:
            return
        bins = bins_of(model.config)
        width = float(bins[-1] - bins[0])
        for b in self.value_betas:
            name, values = f"value_b{b:g}", as_reward_model(model, b / width)
            for beta in self._betas(name, values):
                self._keep(name, beta, partial(self._guided, self._processor(values), beta))

    def _exact(self) -> None:
        """Tokenwise, the soft value at the b that is also the strength."""
        if (model := self._reward_model("value")) is None:
            return
        bins = bins_of(model.config)
        for strength in EXACT:
            beta = float(f"{strength / float(bins[-1] - bins[0]):.4g}")
            processor = self._processor(as_reward_model(model, beta))
            self._keep("value_exact", beta, partial(self._guided, processor, beta))

    def _pargs_rollouts(self) -> None:
        self._sweep("pargs_rollouts", "rollouts")

    def _head_rollouts(self) -> None:
        self._sweep_head("head_rollouts", "rollouts_head", HEAD_BETAS[self.task])

    def _guided_blockwise(self) -> None:
        self._choose_guided("value_guided_blockwise", self.sizes)

    def _choose_guided(self, name: str, sizes: tuple[int, ...], **settings: Any) -> None:
        """Block-wise best-of-n by the value, of rows that a steering head guides."""
        if (model := self._reward_model("value")) is not None:
            runs = [(name, "best", n, {"n": n} | settings) for n in sizes]
            self._keep_guided_searches(self.guide, as_reward_model(model), runs)

    def _blockwise(self) -> None:
        for kind, model in self._scorers():
            for n in self.sizes:
                self._keep(f"{kind}_blockwise", n, partial(self._search, model, "best", n))

    def _halving(self) -> None:
        for kind, model in self._scorers():
            self._keep(f"{kind}_halving", HALVED, partial(self._search, model, "halve", HALVED))

    def _scorers(self) -> list[tuple[str, Any]]:
        found = {kind: self._reward_model(kind) for kind in self.scorers}
        return [(kind, as_reward_model(model)) for kind, model in found.items() if model is not None]
