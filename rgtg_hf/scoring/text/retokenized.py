"""Rewards of a causal reward model with another tokenizer than the policy's, through text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rgtg_hf.scoring.choose import choose_reader
from rgtg_hf.scoring.scorer import PrefixBatch, place_increments
from rgtg_hf.scoring.text.policy_text import PolicyText, Text, chat_closing, leading_special_ids
from rgtg_hf.scoring.text.sequences import common_length

__all__ = ["RetokenizedScorer", "without_leading"]


class RetokenizedScorer:
    """Decodes the policy's tokens, encodes the text for the reward model, and reads the tokens that are new there.

    The reward model reads prompt and response as one text, encoded by its own tokenizer, with the special tokens that
    the tokenizer puts in front and without those that it puts behind. The cache is kept up to the point where the
    reward model's ids change, so a step costs the changed end: a token or two per candidate.

    Where the policy ends a response, the reward model reads an end of its own: the text that its chat template writes
    after an answer if the prompt is in that format, and otherwise its eos token. Without either, an end has no text,
    and the candidate has the reward of the response before it. For the rest of the conversion see
    [`PolicyText`][rgtg_hf.scoring.text.policy_text.PolicyText].

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
        from rgtg_hf.scoring.text.retokenized import RetokenizedScorer

        scorer = RetokenizedScorer(reward_model, tokenizer=policy_tokenizer, reward_tokenizer=reward_tokenizer)
        increments = scorer.score(prefixes, candidate_ids)
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
        self._held: list[tuple[list[int], list[int]]] = []  # each row's prefix, in the policy's ids and in our own

    @property
    def tokens_computed(self) -> int:
        """Reward-model tokens computed so far, padding included."""
        return self.reader.tokens_computed

    def score(self, prefixes: PrefixBatch, candidate_ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Computes increments; see [`Scorer.score`][rgtg_hf.scoring.scorer.Scorer.score]."""
        rows = prefixes.on_host(candidate_ids, wanted)
        texts = self.policy_text.read(rows)
        ids = self._encode(text for row in texts for text in row)
        shared, continuations, held = [], [], []
        for row, own in zip(rows, texts, strict=True):
            sequences = [ids[text] for text in own]
            held.append((row.prefix, sequences[0]) if own else self._held_of(row.prefix))
            beginning = _common_beginning(sequences) if own else held[-1][1]
            shared.append(beginning)
            continuations.append([sequence[len(beginning) :] for sequence in sequences])
        self._held = held
        rewards = self.reader.read(shared, continuations)
        return place_increments(rewards, [row.columns for row in rows], candidate_ids)

    def rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> list[float]:
        """Computes rewards; see [`Scorer.rewards`][rgtg_hf.scoring.scorer.Scorer.rewards]."""
        texts = [self.policy_text.text(prompt, own) for prompt, own in zip(prompts, responses, strict=True)]
        ids = self._encode(texts)
        found = self.reader.read([ids[text] for text in texts], [[[]] for _ in texts])
        return [reward for row in found for reward in row]

    def reset(self) -> None:
        """Forgets the cache and the prompts."""
        self.reader.reset()
        self.policy_text.reset()
        self._held = []

    def _held_of(self, prefix: list[int]) -> tuple[list[int], list[int]]:
        """A row that lies behind: what is held of it, so that the reader keeps it."""
        return next((held for held in self._held if held[0] and prefix[: len(held[0])] == held[0]), ([], []))

    def _encode(self, texts: Iterable[Text]) -> dict[Text, list[int]]:
        """The reward model's ids of prompt and response."""
        different = list(dict.fromkeys(texts))
        if not different:
            return {}
        joined = [self._joined(text) for text in different]
        encoded = self.reward_tokenizer(joined, add_special_tokens=False, verbose=False)["input_ids"]
        ids = [self.leading + own for own in encoded]
        if not all(ids):
            start = self.reward_tokenizer.bos_token_id
            start = self.reward_tokenizer.eos_token_id if start is None else start
            if start is None:
                raise ValueError(
                    "The reward model has nothing to read: prompt and response are empty as text, and its tokenizer "
                    "has no bos or eos token to begin with. Give generate() a prompt that has text."
                )
            ids = [one or [start] for one in ids]
        return dict(zip(different, ids, strict=True))

    def _joined(self, text: Text) -> str:
        prompt = without_leading(text.prompt, self.reward_tokenizer, self.leading)
        in_chat = bool(self.closing.strip()) and self.closing.strip() in prompt
        return prompt + text.join(self.closing if in_chat else self.reward_tokenizer.eos_token or "")


def without_leading(prompt: str, tokenizer: PreTrainedTokenizerBase, leading: list[int]) -> str:
    """A prompt without the special tokens that the tokenizer is going to put in front of it anyway."""
    return prompt.removeprefix("".join(tokenizer.convert_ids_to_tokens(leading)))


def _common_beginning(sequences: list[list[int]]) -> list[int]:
    lowest, highest = min(sequences), max(sequences)  # all share the beginning that these two share
    return lowest[: common_length(lowest, highest)]
