"""Samples every method of a comparison, all trained on the same rollouts, for evaluation prompts from a file."""

from __future__ import annotations

import json
from functools import cached_property, partial
from statistics import fmean, stdev
from typing import Any, ClassVar

from benchmarks.models import DEVICE
from benchmarks.values.rollout_models import GUIDE_BETA, rated_rollouts
from benchmarks.values.value_sampler import ValueSampler
from rgtg_hf.cli.demo.demo_rows import training_prompts
from rgtg_hf.cli.prompt_files import encode_prompts
from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.evaluation.cards import cards_responses
from rgtg_hf.evaluation.prompts import with_instruction
from rgtg_hf.evaluation.sampling import SampledResponses
from rgtg_hf.rewards.sequence_rewards import sequence_rewards
from rgtg_hf.rewards.value_model import as_reward_model
from rgtg_hf.training.surplus import reward_unit, surpluses

__all__ = ["BaselineSampler"]

# What a user would write first, chosen before any response to it was seen.
INSTRUCTIONS = {
    "sentiment": "Answer in a cheerful and positive tone.",
    "plain": "Answer in short sentences and simple words.",
}
PROMPTED = (1.0, 2.0, 4.0)  # above 1: classifier-free guidance
DPO = GENARM = (0.25, 0.5, 1.0, 2.0)
BLOCKWISE = (4,)
GUIDED_BEST = (2, 4)
# In nats per standard deviation of the rewards of a prompt's responses.
ADVANTAGES = (1.5, 2.7, 4.5, 7.5)
PARTICLES, ROWS = (1.0, 2.0), 8
TARGETS = (0.0, 1.0)  # of CARDS: standard deviations of the policy's rewards above their mean
CARDS_EVERY = 4  # the prompts that CARDS gets: it reads everything again at each try


class BaselineSampler(ValueSampler):
    """Writes the missing pieces of one task and seed. The evaluation prompts are in `prompts.jsonl` of the folder."""

    order: ClassVar[tuple[str, ...]] = (
        *("policy", "prompted", "advantages", "value", "pargs_rollouts", "head_rollouts", "args", "dpo", "genarm"),
        *("best_of_n", "guided_best_of_n", "blockwise", "guided_blockwise", "particles", "cards"),
    )
    scorers: ClassVar[tuple[str, ...]] = ("value",)
    value_betas: ClassVar[tuple[float, ...]] = (0.0,)
    sizes: ClassVar[tuple[int, ...]] = BLOCKWISE
    guide: ClassVar[str] = "advantages"
    head_beta: ClassVar[float] = GUIDE_BETA

    @cached_property
    def _prompts(self) -> list[str]:
        lines = (self.folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["prompt"] for line in lines][: self.settings["prompts"]]

    def _args(self) -> None:
        self._sweep("args", "rollouts_full")

    def _advantages(self) -> None:
        self._sweep_head("advantages", "advantages", ADVANTAGES)

    def _guided_best_of_n(self) -> None:
        self._choose_guided("value_guided_best_of_n", GUIDED_BEST, block_size=self.settings["max_new_tokens"])

    def _particles(self) -> None:
        name = "value_particles"
        if self._missing(name, PARTICLES) and (model := self._reward_model("value")) is not None:
            unit = self._reward_unit()
            for beta in PARTICLES:
                settings = {"n": ROWS, "beta": beta / unit}
                self._keep(name, beta, partial(self._search, as_reward_model(model), "resample", **settings))

    def _reward_unit(self) -> float:
        """The standard deviation of the rewards of a prompt's responses, of those that trained the models."""
        rows = rated_rollouts(self.folder, self.task, self.seed)
        prompts, rewards = [tuple(row["prompt_ids"]) for row in rows], [row["reward"] for row in rows]
        return reward_unit(surpluses(prompts, rewards, [1.0] * len(rows)))

    def _prompted(self) -> None:
        policy, tokenizer = self._models
        told = [with_instruction(prompt, INSTRUCTIONS[self.task]) for prompt in self._prompts]
        self._sweep_expert("prompted", policy, PROMPTED, prompts=dict(encode_prompts(tokenizer, told).to(DEVICE)))

    def _dpo(self) -> None:
        self._sweep_adapter("dpo", "rollouts_dpo", DPO)

    def _genarm(self) -> None:
        self._sweep_adapter("genarm", "rollouts_arm", GENARM, base=None)

    def _cards(self) -> None:
        missing = self._missing("cards", TARGETS)
        if missing and (model := self._reward_model("rollouts_full")) is not None:
            rewards = self._pilot_rewards(model)
            for above in missing:
                target = fmean(rewards) + above * stdev(rewards)
                self._keep("cards", above, partial(self._of_cards, model, target))

    def _pilot_rewards(self, model: Any) -> list[float]:
        """The rewards of the policy's responses to training prompts."""
        inputs = self._encode(training_prompts()[: self.settings["pilot_prompts"]])
        sampled = self._sample(inputs, None, self.seed)
        prompts = kept_ids(inputs["input_ids"], inputs["attention_mask"])
        return sequence_rewards(model, [one + own for one, own in zip(prompts, sampled.ids, strict=True)])

    def _of_cards(self, model: Any, target: float) -> SampledResponses:
        policy, tokenizer = self._models
        chosen = {name: self.settings[name] for name in ("top_k", "max_new_tokens")}
        some = {name: part[::CARDS_EVERY] for name, part in self._ids_and_mask.items()}
        return cards_responses(policy, tokenizer, some, model, target=target, seed=self.seed, **chosen)
