"""Samples the responses of searches to the held-out prompts, for which.py."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from transformers import LogitsProcessor, LogitsProcessorList, set_seed

from benchmarks.paper.sample import Sampler
from benchmarks.search.its_hub import particle_filtering
from rgtg_hf import steering
from rgtg_hf.evaluation.best_of import search_responses
from rgtg_hf.evaluation.log_ratios import RatioRecorder
from rgtg_hf.evaluation.sampling import SampledResponses
from rgtg_hf.inspection.search_trace import Follow

__all__ = ["SearchSampler"]

BLOCK_SIZE = 8
BEST, PARTICLES, HALVED, ITS_HUB = (4, 8), 8, 16, 4  # rows
BETAS = (0.5, 1.0, 2.0)  # of particles
HEAD_BETA, GUIDED_BETA = 1.0, 1.0  # of the head that guides rows, and of the particles that it guides
MAX_ROWS = 416


class SearchSampler(Sampler):
    """Writes the missing pieces of one task and seed, those of searches among them."""

    order: ClassVar[tuple[str, ...]] = (
        *("policy", "pargs", "blockwise", "particles", "head", "halving"),
        *("guided_searches", "best_of_n", "its_hub", "dpo"),
    )

    head_beta: ClassVar[float] = HEAD_BETA

    def _search(self, model: Any, search: str, n: int, **settings: Any) -> SampledResponses:
        policy, tokenizer = self._models
        shared = {name: self.settings[name] for name in ("top_k", "max_new_tokens")}
        shared |= {"search": search, "n": n, "block_size": BLOCK_SIZE, "seed": self.seed, "max_rows": MAX_ROWS}
        return search_responses(policy, tokenizer, self._ids_and_mask, model, **shared | settings)

    def _keep_searches(self, name: str, search: str, runs: dict[float, dict[str, Any]]) -> None:
        """The missing pieces of a search, by their strengths."""
        missing = self._missing(name, list(runs))
        if missing and (model := self._reward_model("prefix")) is not None:
            for strength in missing:
                self._keep(name, strength, partial(self._search, model, search, **runs[strength]), "prefix")

    def _blockwise(self) -> None:
        self._keep_searches("blockwise", "best", {n: {"n": n} for n in BEST})

    def _particles(self) -> None:
        self._keep_searches("particles", "resample", {beta: {"n": PARTICLES, "beta": beta} for beta in BETAS})

    def _halving(self) -> None:
        self._keep_searches("halving", "halve", {HALVED: {"n": HALVED}})

    def _guided_searches(self) -> None:
        """Searches whose rows are guided by the steering head."""
        runs = (
            ("guided_blockwise", "best", 4, {"n": 4}),
            ("guided_particles", "resample", GUIDED_BETA, {"n": PARTICLES, "beta": GUIDED_BETA}),
            ("guided_halving", "halve", HALVED, {"n": HALVED}),
        )
        self._keep_guided_searches("head", self._reward_model("prefix"), runs, "prefix")

    def _keep_guided_searches(
        self,
        head_kind: str,
        model: Any,
        runs: Iterable[tuple[str, str, float, dict[str, Any]]],
        kind: str | None = None,
    ) -> None:
        """The missing pieces of searches by a model: name, search, strength and settings of each."""
        if (head := self._steering_head(head_kind)) is None or model is None:
            return
        with steering(self._models[0], [(head, self.head_beta)], top_k=self.settings["top_k"]) as guide:
            for name, search, strength, settings in runs:
                self._keep(name, strength, partial(self._guided_search, guide, model, search, settings), kind)

    def _guided_search(self, guide: Any, model: Any, search: str, settings: dict[str, Any]) -> SampledResponses:
        sampled = self._search(model, search, guide=guide, **settings)
        if search != "resample":
            # The bound is the divergence from the guided policy. What the guide added is log guided / policy.
            ratios = self._log_ratios(guide, sampled.ids)
            moved = [bound + ratio for bound, ratio in zip(sampled.divergences, ratios, strict=True)]
            sampled = replace(sampled, divergences=moved)
        return sampled

    def _log_ratios(self, guide: LogitsProcessor, responses: list[list[int]]) -> list[float]:
        """log of the guided policy's probability of each response over the policy's, by writing it again."""
        policy, tokenizer = self._models
        recorder, follow = RatioRecorder(guide), Follow(responses, tokenizer.pad_token_id)
        with torch.inference_mode():
            policy.generate(
                **self._ids_and_mask, max_new_tokens=max(map(len, responses)), do_sample=False, temperature=None,
                top_p=None, top_k=None, eos_token_id=None, logits_processor=LogitsProcessorList([recorder, follow]),
            )  # fmt: skip
        return [-sum(ratios) for ratios in recorder.log_ratios(responses)]

    def _its_hub(self) -> None:
        if self._file("its_hub", ITS_HUB).exists() or (model := self._reward_model("prefix")) is None:
            return
        if importlib.util.find_spec("its_hub") is None:
            print("its_hub is left out, because its-hub is not installed", flush=True)
            return
        self._keep("its_hub", ITS_HUB, partial(self._filtered, model), "prefix")

    def _filtered(self, model: Any) -> SampledResponses:
        policy, tokenizer = self._models
        set_seed(self.seed)
        texts = particle_filtering(
            policy, tokenizer, model, self._prompts, n=ITS_HUB, block_size=BLOCK_SIZE,
            new_tokens=self.settings["max_new_tokens"], top_k=self.settings["top_k"],
        )  # fmt: skip
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return SampledResponses(
            texts=texts,
            divergences=[float("nan")] * len(texts),
            tokens=sum(map(len, ids)),
            seconds=1.0,
            ids=ids,
        )
