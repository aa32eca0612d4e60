"""Rewards of encoders (BERT, RoBERTa, DeBERTa): the whole text is read for every candidate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rgtg_hf.rewards.model_state import input_device
from rgtg_hf.scoring.text.policy_text import PolicyText, leading_special_ids
from rgtg_hf.scoring.text.retokenized import without_leading
from rgtg_hf.scoring.text.whole_texts import WholeTextScorer

__all__ = ["EncoderScorer", "longest_text"]

_MOST_AT_ONCE = 64
_NO_LIMIT = 10**9  # tokenizers without a limit name a far larger one


class EncoderScorer(WholeTextScorer):
    """Reads prompt and response as one text, with the special tokens of the reward model's tokenizer around it.

    An encoder sees its whole text at once, so nothing of a prefix can be kept: a step costs k texts per row. Distinct
    texts are read once, in batches.

    An encoder's text has the same end token whether the policy has ended or not, so a candidate that ends the response
    has the reward of the text before it.

    Args:
        reward_model: A `*ForSequenceClassification` model with one label.
        tokenizer: The policy's tokenizer.
        reward_tokenizer: The reward model's tokenizer.
        eos_token_ids: Ids of the policy that end a response, besides those that its tokenizer names.

    Attributes:
        tokens_computed: Reward-model tokens computed so far, padding included.

    Raises:
        ValueError: If the reward model's tokenizer has no pad token. When scoring, if a text is longer than the
            encoder can read, or is empty with a tokenizer that has no special token to read in its place.

    Example:
        ```python
        from rgtg_hf.scoring.text.encoder_scorer import EncoderScorer

        scorer = EncoderScorer(bert, tokenizer=policy_tokenizer, reward_tokenizer=bert_tokenizer)
        increments = scorer.score(prefixes, candidate_ids)
        ```
    """

    def __init__(
        self,
        reward_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reward_tokenizer: PreTrainedTokenizerBase,
        eos_token_ids: Sequence[int] = (),
    ):
        if reward_tokenizer.pad_token is None:
            raise ValueError(
                f"The tokenizer of {type(reward_model).__name__} has no pad token, which batches of texts need: set "
                "`reward_tokenizer.pad_token`."
            )
        super().__init__(PolicyText(tokenizer, reward_tokenizer, eos_token_ids))
        self.reward_model = reward_model
        self.device = input_device(reward_model)
        self.reward_tokenizer = reward_tokenizer
        self.leading = leading_special_ids(reward_tokenizer)
        self.longest = longest_text(reward_model, reward_tokenizer)

    @torch.no_grad()
    def rewards_of(self, prompts: list[str], responses: list[str]) -> list[float]:
        """The reward of each prompt and response, read as one text."""
        texts = [
            without_leading(prompt, self.reward_tokenizer, self.leading) + response
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        encoded = self.reward_tokenizer(texts, verbose=False)
        if not all(encoded["input_ids"]):
            texts = [text if ids else self._start() for text, ids in zip(texts, encoded["input_ids"], strict=True)]
            encoded = self.reward_tokenizer(texts, verbose=False)
        longest = max(map(len, encoded["input_ids"]))
        if longest > self.longest:
            raise ValueError(
                f"Prompt and response have {longest} tokens for the reward model {type(self.reward_model).__name__}, "
                f"which reads at most {self.longest}: generate fewer tokens (max_new_tokens), or shorten the prompt."
            )
        rewards: list[float] = []
        for start in range(0, len(texts), _MOST_AT_ONCE):
            part = {name: values[start : start + _MOST_AT_ONCE] for name, values in encoded.items()}
            batch = self.reward_tokenizer.pad(part, padding_side="right", return_tensors="pt").to(self.device)
            self.tokens_computed += batch["input_ids"].numel()
            rewards += self.reward_model(**batch).logits[:, 0].float().tolist()
        return rewards

    def _start(self) -> str:
        """The text that stands for an empty one, where the tokenizer puts nothing around it."""
        tokenizer = self.reward_tokenizer
        start = tokenizer.cls_token or tokenizer.bos_token or tokenizer.eos_token
        if start is None:
            raise ValueError(
                f"{type(self.reward_model).__name__} has nothing to read: prompt and response are empty as text, and "
                "its tokenizer has no cls, bos or eos token. Give generate() a prompt that has text."
            )
        return str(start)


def longest_text(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens that an encoder can read, special tokens included.

    The tokenizer names a limit, or else the configuration. A table of learned positions sets another one: RoBERTa and
    its kin count positions from `padding_idx + 1`, so of 514 they can use 512.
    """
    limit = tokenizer.model_max_length
    if limit >= _NO_LIMIT:
        limit = getattr(encoder.config, "max_position_embeddings", None) or _NO_LIMIT
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] == "position_embeddings":
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            limit = min(limit, module.num_embeddings - unused)
    return limit
