"""Samples what models trained on rollouts guide or choose, for the held-out prompts of the paper's table."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, ClassVar

from benchmarks.search.search_sampler import SearchSampler
from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.rewards.value_model import as_reward_model, bins_of

__all__ = ["ValueSampler"]

# b times the range of rewards, so that it means the same for every gold reward.
VALUE_BETAS = (0.0, 4.0, 16.0)
EXACT = (8.0, 32.0)  # value_beta = beta, times the range
SIZES = (4, 8)  # rows of block-wise best-of-n
HALVED = 16


class ValueSampler(SearchSampler):
    """Writes the missing pieces of one task and seed, by value models and by rewards of pairs of the same rollouts.

    The names of methods begin with `value` or `rollouts`.
    """

    order: ClassVar[tuple[str, ...]] = (
        "policy",
        "value",
        "pargs_rollouts",
        "exact",
        "blockwise",
        "best_of_n",
        "halving",
    )

    def _value(self) -> None:
        """Tokenwise, V_b for several b, at strengths that reach the target divergences."""
        self._by_value({f"value_b{b:g}": b for b in VALUE_BETAS})

    def _by_value(self, names: dict[str, float]) -> None:
        if (model := self._reward_model("value")) is None:
            return
        bins = bins_of(model.config)
        width = float(bins[-1] - bins[0])
        for name, b in names.items():
            values = as_reward_model(model, b / width)
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

    def _blockwise(self) -> None:
        for kind, model in self._scorers():
            for n in SIZES:
                self._keep(f"{kind}_blockwise", n, partial(self._search, model, "best", n))

    def _halving(self) -> None:
        for kind, model in self._scorers():
            self._keep(f"{kind}_halving", HALVED, partial(self._search, model, "halve", HALVED))

    def _best_of_n(self) -> None:
        draws = [json.loads(self._file("policy", draw).read_text("utf-8")) for draw in range(self.settings["draws"])]
        for kind, model in self._scorers():
            if not self._file(f"{kind}_best_of_n", len(draws)).exists():
                rewards = [self._rewards(model, draw["ids"]) for draw in draws]
                for n in (4, 8):
                    chosen = self._choose(draws[:n], rewards[:n], 0.0)
                    self._keep(f"{kind}_best_of_n", n, lambda chosen=chosen: chosen)

    def _scorers(self) -> list[tuple[str, Any]]:
        found = {kind: self._reward_model(kind) for kind in ("value", "rollouts")}
        return [(kind, as_reward_model(model)) for kind, model in found.items() if model is not None]

    def _processor(self, model: Any) -> RewardGuidedLogitsProcessor:
        mask, top_k = self._inputs["attention_mask"], self.settings["top_k"]
        return RewardGuidedLogitsProcessor(model, 1.0, top_k, attention_mask=mask, **self._special_tokens())
