"""The methods that are compared, by name: the policy, ways of steering it, and what is done instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers import LogitsProcessor

from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
from rgtg_hf.decoding.steering import steering
from rgtg_hf.evaluation.best_of import blockwise_best_of_n, response_rewards, sample_best_of_n, unpadded
from rgtg_hf.evaluation.fine_tuned import FineTunedProcessor
from rgtg_hf.evaluation.sampling import SampledResponses, end_token_ids, sample_responses

__all__ = ["METHODS", "Contestants", "Method"]


@dataclass(frozen=True)
class Method:
    """What distinguishes a method.

    Attributes:
        name: For tables.
        needs: Which model it needs besides the policy, an attribute of [`Contestants`]; None for no other.
        strengths: Which setting makes it stronger: `"betas"`, `"args_betas"`, `"ns"`, `"offline_strengths"`; None
            where there is none.
        greedy: Whether it takes the likeliest candidate instead of sampling.
        kl_is_bound: Whether its divergence is known as an upper bound only.
        on_frontier: Whether its strengths make a line from the sampled policy on.
    """

    name: str
    needs: str | None = None
    strengths: str | None = None
    greedy: bool = False
    kl_is_bound: bool = False
    on_frontier: bool = False


METHODS = {
    "policy": Method("policy, sampled"),
    "greedy": Method("policy, greedy", greedy=True),
    "pargs": Method("PARGS", "reward_model", "betas", on_frontier=True),
    "pargs_greedy": Method("PARGS-G", "reward_model", "betas", greedy=True),
    "args": Method("ARGS", "full_reward_model", "args_betas", on_frontier=True),
    "args_greedy": Method("ARGS, greedy", "full_reward_model", "args_betas", greedy=True),
    "best_of_n": Method("best-of-n, prefix RM", "reward_model", "ns", kl_is_bound=True),
    "best_of_n_full": Method("best-of-n, full-sequence RM", "full_reward_model", "ns", kl_is_bound=True),
    "blockwise": Method("block-wise best-of-n, prefix RM", "reward_model", "ns", kl_is_bound=True),
    "head": Method("steering head", "head", "betas", on_frontier=True),
    "offline": Method("fine-tuned policy", "fine_tuned", "offline_strengths", on_frontier=True),
}


@dataclass
class Contestants:
    """A policy, and what is to improve it. Only what the methods at hand need has to be there.

    Attributes:
        policy: The causal language model.
        tokenizer: Its tokenizer.
        reward_model: A prefix reward model with the policy's tokens.
        full_reward_model: One trained on whole responses.
        head: A steering head on the policy.
        fine_tuned: A fine-tuned version of the policy.
        top_k: Candidates per step, for all methods alike.
        max_new_tokens: Tokens per response at most.
        block_size: Tokens per block of block-wise best-of-n.
    """

    policy: Any
    tokenizer: Any
    reward_model: Any = None
    full_reward_model: Any = None
    head: Any = None
    fine_tuned: Any = None
    top_k: int = 10
    max_new_tokens: int = 64
    block_size: int = 8

    def respond(self, method: str, strength: float, inputs: Mapping[str, Tensor], seed: int) -> SampledResponses:
        """One response per prompt.

        Args:
            method: A key of [`METHODS`].
            strength: Its beta, n or strength; without meaning for the policy.
            inputs: Left-padded `input_ids` and `attention_mask`, each of shape `[prompts, length]`.
            seed: Of sampling.

        Returns:
            The responses.
        """
        kind = METHODS[method]
        model: Any = getattr(self, kind.needs) if kind.needs else None
        policy, tokenizer = self.policy, self.tokenizer
        settings: Any = {"top_k": self.top_k, "max_new_tokens": self.max_new_tokens, "seed": seed}
        if method == "blockwise":
            settings |= {"n": int(strength), "block_size": self.block_size}
            return blockwise_best_of_n(policy, tokenizer, inputs, model, **settings)
        if kind.strengths == "ns":
            return sample_best_of_n(policy, tokenizer, inputs, model, n=int(strength), **settings)
        if method == "head":
            with steering(policy, [(model, strength)], top_k=self.top_k) as head:
                return sample_responses(policy, tokenizer, inputs, processor=head, **settings)
        processor: LogitsProcessor | None = None
        if method == "offline":
            processor = FineTunedProcessor(model, strength, self.top_k, inputs["attention_mask"])
        elif model is not None:
            processor = RewardGuidedLogitsProcessor(
                model,
                strength,
                self.top_k,
                attention_mask=inputs["attention_mask"],
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=end_token_ids(policy),
            )
        return sample_responses(policy, tokenizer, inputs, processor=processor, greedy=kind.greedy, **settings)

    def steering_rewards(
        self, method: str, inputs: Mapping[str, Tensor], sampled: SampledResponses
    ) -> list[float] | None:
        """What the reward model that steered thinks of the responses as wholes; None where none did.

        Args:
            method: A key of [`METHODS`].
            inputs: The prompts.
            sampled: What [`respond`][rgtg_hf.evaluation.methods.Contestants.respond] gave for them.
        """
        if METHODS[method].needs not in ("reward_model", "full_reward_model"):
            return None
        return response_rewards(getattr(self, METHODS[method].needs), unpadded(inputs), sampled.ids)  # type: ignore[arg-type]
