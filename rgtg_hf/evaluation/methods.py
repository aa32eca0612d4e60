"""The methods of a comparison, by name: the policy, ways of steering it, and alternatives to steering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor

from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.decoding.steering import steering
from rgtg_hf.evaluation.best_of import search_responses
from rgtg_hf.evaluation.cards import cards_responses
from rgtg_hf.evaluation.experts import ExpertProcessor
from rgtg_hf.evaluation.sampling import SampledResponses, end_token_ids, sample_responses
from rgtg_hf.rewards.sequence_rewards import sequence_rewards

__all__ = ["METHODS", "Contestants", "Method"]


@dataclass(frozen=True)
class Method:
    """The properties of a method.

    Attributes:
        name: Name in tables.
        needs: What it needs besides the policy: names of attributes of [`Contestants`].
        strengths: The setting of its strength: `"betas"`, `"args_betas"`, `"head_betas"`, `"ns"`, `"strengths"` or
            `"cards_targets"`; None for no setting.
        greedy: Whether it takes the most likely candidate instead of sampling.
        kl_is_bound: Whether its divergence is only known as an upper bound.
        on_frontier: Whether its strengths form a curve that starts at the sampled policy.
        search: The selection, for a search; None for others.
    """

    name: str
    needs: tuple[str, ...] = ()
    strengths: str | None = None
    greedy: bool = False
    kl_is_bound: bool = False
    on_frontier: bool = False
    search: str | None = None


_PREFIX, _FULL = ("reward_model",), ("full_reward_model",)
METHODS = {
    "policy": Method("policy, sampled"),
    "greedy": Method("policy, greedy", greedy=True),
    "prompted": Method("policy with an instruction", ("instruction",), "strengths", on_frontier=True),
    "pargs": Method("PARGS", _PREFIX, "betas", on_frontier=True),
    "pargs_greedy": Method("PARGS-G", _PREFIX, "betas", greedy=True),
    "args": Method("ARGS", _FULL, "args_betas", on_frontier=True),
    "args_greedy": Method("ARGS, greedy", _FULL, "args_betas", greedy=True),
    "best_of_n": Method("best-of-n, prefix RM", _PREFIX, "ns", kl_is_bound=True, search="none"),
    "best_of_n_full": Method("best-of-n, full-sequence RM", _FULL, "ns", kl_is_bound=True, search="none"),
    "blockwise": Method("block-wise best-of-n, prefix RM", _PREFIX, "ns", kl_is_bound=True, search="best"),
    "halving": Method("best-of-n by halving, prefix RM", _PREFIX, "ns", kl_is_bound=True, search="halve"),
    "particles": Method("particles, prefix RM", _PREFIX, "betas", kl_is_bound=True, search="resample"),
    "cards": Method("CARDS", _FULL, "cards_targets", kl_is_bound=True),
    "head": Method("steering head", ("head",), "head_betas", on_frontier=True),
    "offline": Method("fine-tuned policy", ("fine_tuned",), "strengths", on_frontier=True),
    "proxy": Method("proxy tuning", ("proxy_tuned", "proxy_base"), "strengths", on_frontier=True),
    "genarm": Method("GenARM", ("autoregressive_rm",), "strengths", on_frontier=True),
}


@dataclass
class Contestants:
    """A policy and the models that improve it. Only the models that the chosen methods need are required.

    Attributes:
        policy: The causal language model.
        tokenizer: Its tokenizer.
        reward_model: A prefix reward model with the policy's tokenizer.
        full_reward_model: A reward model trained on whole responses.
        head: A steering head on the policy.
        fine_tuned: A fine-tuned version of the policy.
        proxy_tuned: A small fine-tuned language model with the policy's vocabulary.
        proxy_base: The same before it was fine-tuned.
        autoregressive_rm: A language model whose log-probabilities are rewards.
        instruction: What the policy is told in the prompt, in words.
        top_k: Candidates per step, for all methods.
        max_new_tokens: Largest number of tokens per response.
        block_size: Tokens per block of a search.
        num_rows: Rows of particles, whose strength is beta. The strength of the other searches is their rows.
        value_beta: Which soft value of a value model is its reward; see
            [`RewardGuidanceConfig`][rgtg_hf.config.RewardGuidanceConfig].
    """

    policy: Any
    tokenizer: Any
    reward_model: Any = None
    full_reward_model: Any = None
    head: Any = None
    fine_tuned: Any = None
    proxy_tuned: Any = None
    proxy_base: Any = None
    autoregressive_rm: Any = None
    instruction: str | None = None
    top_k: int = 10
    max_new_tokens: int = 64
    block_size: int = 8
    num_rows: int = 8
    value_beta: float | str = 0.0

    def respond(
        self,
        method: str,
        strength: float,
        inputs: Mapping[str, Tensor],
        seed: int,
        prompted: Mapping[str, Tensor] | None = None,
    ) -> SampledResponses:
        """Generates one response per prompt.

        Args:
            method: A key of [`METHODS`].
            strength: The beta, n, strength or target of the method; unused for the policy.
            inputs: Left-padded `input_ids` and `attention_mask`, each of shape `[prompts, length]`.
            seed: Seed of sampling.
            prompted: The same prompts with the instruction, for the method `prompted` alone.

        Returns:
            The responses.
        """
        kind = METHODS[method]
        model: Any = getattr(self, kind.needs[0]) if kind.needs else None
        policy, tokenizer = self.policy, self.tokenizer
        settings: Any = {"top_k": self.top_k, "max_new_tokens": self.max_new_tokens, "seed": seed}
        if kind.search is not None:
            ranks = kind.strengths == "ns"
            chosen = {"n": int(strength)} if ranks else {"n": self.num_rows, "beta": strength}
            settings |= {"search": kind.search, "block_size": self.block_size, "value_beta": self.value_beta, **chosen}
            return search_responses(policy, tokenizer, inputs, model, **settings)
        if method == "cards":
            return cards_responses(policy, tokenizer, inputs, model, target=strength, **settings)
        if method == "head":
            with steering(policy, [(model, strength)], top_k=self.top_k) as head:
                return sample_responses(policy, tokenizer, inputs, processor=head, **settings)
        processor: LogitsProcessor | None = None
        experts: dict[str, tuple[Any, dict[str, Any]]] = {
            "prompted": (policy, {"prompts": prompted}),
            "offline": (self.fine_tuned, {}),
            "proxy": (self.proxy_tuned, {"base": self.proxy_base}),
            "genarm": (self.autoregressive_rm, {"base": None}),
        }
        if method in experts:
            expert, more = experts[method]
            processor = ExpertProcessor(expert, strength, self.top_k, inputs["attention_mask"], **more)
        elif model is not None:
            processor = RewardGuidedLogitsProcessor(
                model,
                strength,
                self.top_k,
                value_beta=self.value_beta,
                attention_mask=inputs["attention_mask"],
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=end_token_ids(policy),
            )
        return sample_responses(policy, tokenizer, inputs, processor=processor, greedy=kind.greedy, **settings)

    def steering_rewards(
        self, method: str, inputs: Mapping[str, Tensor], sampled: SampledResponses
    ) -> list[float] | None:
        """The rewards of whole responses by the reward model that steered, or None if the method uses no reward model.

        Args:
            method: A key of [`METHODS`].
            inputs: The prompts.
            sampled: The result of [`respond`][rgtg_hf.evaluation.methods.Contestants.respond] for these prompts.
        """
        if METHODS[method].needs not in (_PREFIX, _FULL):
            return None
        sequences = [
            prompt + own
            for prompt, own in zip(kept_ids(inputs["input_ids"], inputs["attention_mask"]), sampled.ids, strict=True)
        ]
        return sequence_rewards(getattr(self, METHODS[method].needs[0]), sequences)
