"""Rewards through text: a causal reward model with another tokenizer than the policy's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rgtg_hf.scoring.choose import choose_reader
from rgtg_hf.scoring.policy_text import PolicyText, Text, chat_closing
from rgtg_hf.scoring.scorer import CandidateRewards, PrefixBatch

__all__ = ["TextScorer", "leading_special_ids", "without_leading"]


class TextScorer:
    """Decodes what the policy wrote, encodes it for the reward model, and reads what is new there.

    The reward model reads what its own tokenizer makes of prompt and response as one text, behind the special tokens
    that it puts in front (and without those that it puts behind). Its cache is kept up to where its own ids change,
    so that a step costs the changed tail: a token or two per candidate.

    Where the policy ends a response, the reward model reads its own end: what its chat template writes after an
    answer if the prompt is in that format, and otherwise its eos token. Without either, an end has no text, and the
    candidate has the reward of what stands before it. For the rest of the conversion see
    [`PolicyText`][rgtg_hf.scoring.policy_text.PolicyText].

    Args:
        reward_model: A causal `*ForSequenceClassification` model with one label.
        tokenizer: The policy's tokenizer.
        reward_tokenizer: The reward model's tokenizer.
        name: `"auto"` to read with a cache where a probe finds that right, `"reference"` to read whole texts.
        eos_token_ids: Ids of the policy that end a response, besides those that its tokenizer names.

    Attributes:
        vocabulary_size: `None`: any policy can be read that the tokenizer can decode.

    Raises:
        ValueError: If `name` is neither, or, when scoring, if there is nothing to read: an empty text and a
            tokenizer that puts nothing in front.

    Example:
        ```python
        from rgtg_hf.scoring.text import TextScorer

        scorer = TextScorer(reward_model, tokenizer=policy_tokenizer, reward_tokenizer=reward_tokenizer)
        rewards = scorer.score(prefixes, candidate_ids)
        ```
    """

    vocabulary_size: int | None = None

    def __init__(
        self,
        reward_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reward_tokenizer: PreTrainedTokenizerBase,
        name: str = "auto",
        eos_token_ids: Sequence[int] = (),
    ):
        self.reader = choose_reader(reward_model, name)
        self.reward_tokenizer = reward_tokenizer
        self.policy_text = PolicyText(tokenizer, reward_tokenizer, eos_token_ids)
        self.leading = leading_special_ids(reward_tokenizer)
        self.closing = chat_closing(reward_tokenizer)

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.reader.tokens_computed

    @torch.no_grad()
    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor) -> CandidateRewards:
        """Scores candidates; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        step = self.policy_text.read(prefixes, candidate_ids)
        rows = [[base, *candidates] for base, candidates in zip(step.base, step.candidates, strict=True)]
        ids = self._encode({text for row in rows for text in row})
        rewards = self.reader.read([[ids[text] for text in row] for row in rows]).to(candidate_ids.device)
        return CandidateRewards(rewards[:, 1:], rewards[:, 0])

    def reset(self) -> None:
        """Forgets the cache and the prompts."""
        self.reader.reset()
        self.policy_text.reset()

    def _encode(self, texts: set[Text]) -> dict[Text, list[int]]:
        """The reward model's ids of prompt and response."""
        ordered = list(texts)
        joined = [self._joined(text) for text in ordered]
        encoded = self.reward_tokenizer(joined, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [self.leading + tail for tail in encoded]
        if not all(ids):
            start = self.reward_tokenizer.bos_token_id
            start = self.reward_tokenizer.eos_token_id if start is None else start
            if start is None:
                raise ValueError(
                    "The reward model has nothing to read: prompt and response are empty as text, and its tokenizer "
                    "has no bos or eos token to begin with. Give generate() a prompt that has text."
                )
            ids = [one or [start] for one in ids]
        return dict(zip(ordered, ids, strict=True))

    def _joined(self, text: Text) -> str:
        prompt = without_leading(text.prompt, self.reward_tokenizer, self.leading)
        in_chat = bool(self.closing.strip()) and self.closing.strip() in prompt
        return prompt + text.join(self.closing if in_chat else self.reward_tokenizer.eos_token or "")


def leading_special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that a tokenizer puts in front of every text, such as that of `<s>`."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    marked = zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    return [id_ for id_, _ in takewhile(lambda pair: pair[1], marked)]


def without_leading(prompt: str, tokenizer: PreTrainedTokenizerBase, leading: list[int]) -> str:
    """A prompt without the special tokens that the tokenizer is going to put in front of it anyway."""
    return prompt.removeprefix("".join(tokenizer.convert_ids_to_tokens(leading)))
