"""From a policy's token ids to text, for reward models that do not read the policy's ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rgtg_hf.scoring.scorer import PrefixBatch

__all__ = ["PolicyText", "StepTexts", "Text", "chat_closing"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what tokenizers write for bytes that are no character
_MOST_PROMPTS_KEPT = 256
_ANCHOR = 8  # tokens: more than a character can have


class Text(NamedTuple):
    """A prompt and a response.

    Attributes:
        prompt: The prompt's text.
        pieces: The response's text, cut wherever the policy said that it ends: `("Yes.",)` goes on, and
            `("Yes.", "")` has ended.
    """

    prompt: str
    pieces: tuple[str, ...]

    def join(self, end: str = "") -> str:
        """The response, with `end` wherever the policy said that it ends."""
        return end.join(self.pieces)


class StepTexts(NamedTuple):
    """The texts of one decoding step: a base per row, and k candidates per row."""

    base: list[Text]
    candidates: list[list[Text]]


class _Prompt(NamedTuple):
    text: str
    anchor: list[int]  # its last tokens, in front of which a response is decoded
    anchor_text: str


class PolicyText:
    """Decodes prefixes and candidates.

    A response is always decoded as a whole and behind the end of its prompt, never token by token: only so are
    spaces and characters right that a token shares with its neighbours.

    - A response that ends in the middle of a character is read without that character, so a candidate that is a
      part of a character has the text, and the reward, of what stands before it.
    - Special tokens that the reward model knows by the same name stay as they are. Others have no text, and neither
      has a bos token in front of the prompt: the reward model's tokenizer puts its own there.
    - End tokens of a response are told apart, for reward models to write them in their own way: the tokenizer's eos
      token, the token that closes an answer in its chat template, and the ids given.

    Args:
        tokenizer: The policy's tokenizer.
        reward_tokenizer: The reward model's tokenizer; `None` where it reads text, and no special token means
            anything.
        eos_token_ids: More ids of the policy that end a response.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        reward_tokenizer: PreTrainedTokenizerBase | None = None,
        eos_token_ids: Sequence[int] = (),
    ):
        self.tokenizer = tokenizer
        special = {id_: str(token) for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        known = reward_tokenizer.get_added_vocab() if reward_tokenizer is not None else {}
        self.silent = {id_ for id_, token in special.items() if token not in known}
        closing = chat_closing(tokenizer).strip()
        self.ends = {tokenizer.eos_token_id, *eos_token_ids} | {
            id_ for id_, token in special.items() if token and closing.startswith(token)
        }
        ids = tokenizer.get_vocab()
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        self._id_of_byte = [ids[name] for name in names] if all(name in ids for name in names) else []
        self._byte_of = {id_: byte for byte, id_ in enumerate(self._id_of_byte)}
        self._prompts: dict[tuple[int, ...], _Prompt] = {}

    def read(self, prefixes: PrefixBatch, candidate_ids: Tensor) -> StepTexts:
        """Decodes a step: the base text of every row, and the text with each of its candidates."""
        base, candidates = [], []
        real = prefixes.attention_mask.bool().tolist()
        length, base_length = prefixes.prompt_length, prefixes.base_length
        for ids, mask, row_candidates in zip(prefixes.input_ids.tolist(), real, candidate_ids.tolist(), strict=True):
            prompt = [id_ for id_, kept in zip(ids[:length], mask[:length], strict=True) if kept]
            response = [id_ for id_, kept in zip(ids[length:], mask[length:], strict=True) if kept]
            # Columns of a response are never padding, so the base can be counted from the right.
            missing = len(ids) - base_length
            if base_length >= length:
                base.append(self._text(prompt, response[: len(response) - missing]))
            else:
                base.append(self._text(prompt[: len(prompt) - (length - base_length)], []))
            candidates.append([self._text(prompt, [*response, candidate]) for candidate in row_candidates])
        return StepTexts(base, candidates)

    def reset(self) -> None:
        """Forgets the prompts that were decoded."""
        self._prompts.clear()

    def _text(self, prompt_ids: list[int], response: list[int]) -> Text:
        prompt = self._prompt(tuple(prompt_ids))
        pieces: list[list[int]] = [[]]
        for id_ in response:
            if id_ in self.ends:
                pieces.append([])
            elif id_ not in self.silent:
                pieces[-1].append(id_)
        first = self._decode(prompt.anchor + pieces[0])[len(prompt.anchor_text) :]
        return Text(prompt.text, (first, *(self._decode(piece) for piece in pieces[1:])))

    def _prompt(self, ids: tuple[int, ...]) -> _Prompt:
        """Decodes a prompt, once."""
        if ids not in self._prompts:
            if len(self._prompts) >= _MOST_PROMPTS_KEPT:
                self._prompts.clear()
            start = 0
            while start < len(ids) and ids[start] == self.tokenizer.bos_token_id:
                start += 1
            spoken = [id_ for id_ in ids[start:] if id_ not in self.silent]
            anchor = spoken[-_ANCHOR:]
            self._prompts[ids] = _Prompt(self._decode(spoken), anchor, self._decode(anchor))
        return self._prompts[ids]

    def _decode(self, ids: list[int]) -> str:
        """The text up to the last whole character."""
        ids = self._with_whole_characters(ids)
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.rstrip(_REPLACEMENT)

    def _with_whole_characters(self, ids: list[int]) -> list[int]:
        """Replaces broken characters among tokens that are single bytes.

        Tokenizers with such tokens give up a whole run of bytes if one of its characters is broken, also those before.
        """
        if self._byte_of.keys().isdisjoint(ids):
            return ids
        whole = []
        for is_byte, run in groupby(ids, key=self._byte_of.__contains__):
            if is_byte:
                text = bytes(self._byte_of[id_] for id_ in run).decode("utf-8", errors="replace")
                whole += [self._id_of_byte[byte] for byte in text.encode()]
            else:
                whole += run
        return whole


def chat_closing(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a tokenizer's chat template writes after an answer, such as `"<|im_end|>\\n"`; empty without a template."""
    if not getattr(tokenizer, "chat_template", None):
        return ""
    answer = "answer"
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": answer}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template may refuse whatever it likes, in any way
        return ""
    return str(text).rpartition(answer)[2] if answer in str(text) else ""
