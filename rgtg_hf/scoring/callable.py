"""Any function of texts as a reward: rules, classifiers, remote models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rgtg_hf.scoring.policy_text import PolicyText
from rgtg_hf.scoring.scorer import CandidateRewards, PrefixBatch
from rgtg_hf.scoring.whole_text import DistinctTexts

__all__ = ["CallableScorer", "RewardFunction"]

RewardFunction = Callable[[list[str], list[str]], "Sequence[float] | Tensor"]


class CallableScorer:
    """Asks a function for the rewards of a step's texts, each distinct one once.

    The texts have no special tokens. So a candidate that ends the response has the reward of the text before it, as
    has one that is a part of a character.

    Args:
        function: Takes prompts and as many partial responses, and returns one finite number each, as a list or a
            tensor of shape `[texts]`. It should depend on nothing else: rewards of the step before are used again.
        tokenizer: The policy's tokenizer.
        eos_token_ids: Ids of the policy that end a response, besides those that its tokenizer names.

    Attributes:
        tokens_computed: Always 0: what the function computes is not known.
        vocabulary_size: `None`: any policy can be read that the tokenizer can decode.

    Raises:
        TypeError: When scoring, if the function returns something that is not a list or tensor of numbers.
        ValueError: When scoring, if it returns another number of rewards than it was given texts.
        FloatingPointError: When scoring, if a reward is not finite.

    Example:
        ```python
        from rgtg_hf.scoring.callable import CallableScorer

        def brevity(prompts, responses):
            return [-len(response) / 100 for response in responses]

        scorer = CallableScorer(brevity, tokenizer=policy_tokenizer)
        rewards = scorer.score(prefixes, candidate_ids)
        ```
    """

    vocabulary_size: int | None = None
    tokens_computed = 0

    def __init__(
        self, function: RewardFunction, tokenizer: PreTrainedTokenizerBase, eos_token_ids: Sequence[int] = ()
    ):
        self.function = function
        self.policy_text = PolicyText(tokenizer, eos_token_ids=eos_token_ids)
        self._texts = DistinctTexts(self._ask)

    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor) -> CandidateRewards:
        """Scores candidates; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        return self._texts.score(self.policy_text.read(prefixes, candidate_ids), candidate_ids.device)

    def reset(self) -> None:
        """Forgets the texts of the last step."""
        self._texts.reset()
        self.policy_text.reset()

    def _ask(self, prompts: list[str], responses: list[str]) -> list[float]:
        found = self.function(prompts, responses)
        name = getattr(self.function, "__name__", type(self.function).__name__)
        required = f"but one number for each of the {len(responses)} responses is required"
        try:
            rewards = torch.as_tensor(found).detach().to("cpu", torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"The reward function {name} returned a {type(found).__name__} ({error}), {required}: return a list "
                "of floats or a tensor."
            ) from None
        if rewards.shape != (len(responses),):
            raise ValueError(
                f"The reward function {name} returned shape {tuple(rewards.shape)}, {required}: return a list of "
                "floats or a tensor of one dimension."
            )
        values = rewards.tolist()
        for response, value in zip(responses, values, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The reward function {name} returned {value} for the response {response!r}, but a finite number "
                    "is required: return a large negative number for what must not be written."
                )
        return values
