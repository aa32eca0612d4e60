"""Scorers that see whole texts and can keep nothing of a prefix: each distinct text is scored once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rgtg_hf.scoring.scorer import PrefixBatch, place_increments
from rgtg_hf.scoring.text.policy_text import PolicyText

__all__ = ["CallableScorer", "RewardFunction", "WholeTextScorer"]

RewardFunction = Callable[[list[str], list[str]], "Sequence[float] | Tensor"]


class WholeTextScorer(ABC):
    """Scores the distinct texts of a step. Those of the step before are not scored again.

    Args:
        policy_text: Decodes the policy's tokens.

    Attributes:
        vocabulary_size: `None`: any policy can be read that the tokenizer can decode.
    """

    vocabulary_size: int | None = None
    tokens_computed = 0

    def __init__(self, policy_text: PolicyText):
        self.policy_text = policy_text
        self._known: dict[tuple[str, str], float] = {}

    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Computes increments; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        rows = prefixes.on_host(candidate_ids, wanted)
        texts = [[(text.prompt, text.join()) for text in row] for row in self.policy_text.read(rows)]
        return place_increments(self._rewards(texts), [row.columns for row in rows], candidate_ids)

    def rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
        """Computes rewards; see [`Scorer.rewards`][rgtg_hf.scoring.scorer.Scorer.rewards]."""
        texts = [self.policy_text.text(prompt, own) for prompt, own in zip(prompts, responses, strict=True)]
        return self._rewards([[(text.prompt, text.join()) for text in texts]])[0]

    def _rewards(self, texts: list[list[tuple[str, str]]]) -> list[list[float]]:
        """The rewards of texts, those that were not known before asked for once."""
        different = dict.fromkeys(text for row in texts for text in row)
        if new := [text for text in different if text not in self._known]:
            prompts, responses = (list(part) for part in zip(*new, strict=True))
            self._known |= zip(new, self.rewards_of(prompts, responses), strict=True)
        self._known = {text: self._known[text] for text in different}
        return [[self._known[text] for text in row] for row in texts]

    @abstractmethod
    def rewards_of(self, prompts: list[str], responses: list[str]) -> list[float]:
        """The reward of each prompt and response."""

    def reset(self) -> None:
        """Forgets the texts of the last step."""
        self._known = {}
        self.policy_text.reset()


class CallableScorer(WholeTextScorer):
    """Asks a function for the rewards of a step's texts: a rule, a classifier, a remote model.

    The texts have no special tokens. So a candidate that ends the response has the reward of the text before it, and
    so has a candidate that is a part of a character.

    Args:
        function: Takes prompts and as many partial responses, and returns one finite number each, as a list or a
            tensor of shape `[texts]`. It should depend on nothing else: rewards of the step before are used again.
        tokenizer: The policy's tokenizer.
        eos_token_ids: Ids of the policy that end a response, besides those that its tokenizer names.

    Attributes:
        tokens_computed: Always 0: the tokens that the function computes are not known.

    Raises:
        TypeError: When scoring, if the function returns something that is not a list or tensor of numbers.
        ValueError: When scoring, if it returns another number of rewards than it was given texts.
        FloatingPointError: When scoring, if a reward is not finite.

    Example:
        ```python
        from rgtg_hf.scoring.text.whole_texts import CallableScorer

        def brevity(prompts, responses):
            return [-len(response) / 100 for response in responses]

        scorer = CallableScorer(brevity, tokenizer=policy_tokenizer)
        increments = scorer.score(prefixes, candidate_ids)
        ```
    """

    def __init__(
        self, function: RewardFunction, tokenizer: PreTrainedTokenizerBase, eos_token_ids: Sequence[int] = ()
    ):
        super().__init__(PolicyText(tokenizer, eos_token_ids=eos_token_ids))
        self.function = function

    def rewards_of(self, prompts: list[str], responses: list[str]) -> list[float]:
        """The function's rewards, checked."""
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
                    "is required: return a large negative number for text that must not be written."
                )
        return values
