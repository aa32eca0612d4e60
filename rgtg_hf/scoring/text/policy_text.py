"""From a policy's token ids to text, for reward models that do not read the policy's ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, takewhile
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from rgtg_hf.scoring.scorer import HostRow

__all__ = ["PolicyText", "Text", "chat_closing", "leading_special_ids"]

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # tokenizers write it for bytes that are not a character
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


class _Prompt(NamedTuple):
    text: str
    anchor: list[int]  # its last tokens; a response is decoded behind them
    anchor_text: str


class PolicyText:
    """Decodes prefixes and candidates.

    A response is always decoded as a whole and behind the end of its prompt, never token by token. Otherwise spaces
    and characters that a token shares with its neighbours would be wrong.

    - A response that ends in the middle of a character is read without that character, so a candidate that is a
      part of a character has the text, and the reward, of the response before it.
    - Special tokens that the reward model knows by the same name stay as they are. Others have no text. Neither have
      the tokens that the policy's tokenizer puts in front of every text by itself, such as `<s>`: the reward model's
      tokenizer puts its own there.
    - End tokens of a response are kept apart, so that each reward model can write them in its own way. They are the
      tokenizer's eos token, the token that closes an answer in its chat template, and the ids given.

    Args:
        tokenizer: The policy's tokenizer.
        reward_tokenizer: The reward model's tokenizer; `None` for a reward function, for which no special token has a
            meaning.
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
        self.leading = leading_special_ids(tokenizer)
        closing = chat_closing(tokenizer).strip()
        self.ends = {tokenizer.eos_token_id, *eos_token_ids} | {
            id_ for id_, token in special.items() if token and closing.startswith(token)
        }
        ids = tokenizer.get_vocab()
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        self._id_of_byte = [ids[name] for name in names] if all(name in ids for name in names) else []
        self._byte_of = {id_: byte for byte, id_ in enumerate(self._id_of_byte)}
        self._prompts: dict[tuple[int, ...], _Prompt] = {}

    def read(self, rows: Sequence[HostRow]) -> list[list[Text]]:
        """Decodes a step: for each row the prefix, then the prefix with each wanted candidate; nothing without any."""
        return [
            [self.text(row.prompt, row.response)]
            + [self.text(row.prompt, [*row.response, candidate]) for candidate in row.candidates]
            if row.candidates
            else []
            for row in rows
        ]

    def reset(self) -> None:
        """Forgets the prompts that were decoded."""
        self._prompts.clear()

    def text(self, prompt_ids: list[int], response: list[int]) -> Text:
        """Decodes a prompt, given without padding, and a response."""
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
            start, count = 0, len(self.leading)
            while count and list(ids[start : start + count]) == self.leading:  # twice if a chat template has them too
                start += count
            visible = [id_ for id_ in ids[start:] if id_ not in self.silent]
            anchor = visible[-_ANCHOR:]
            self._prompts[ids] = _Prompt(self._decode(visible), anchor, self._decode(anchor))
        return self._prompts[ids]

    def _decode(self, ids: list[int]) -> str:
        """The text up to the last whole character."""
        ids = self._with_whole_characters(ids)
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text.rstrip(_REPLACEMENT)

    def _with_whole_characters(self, ids: list[int]) -> list[int]:
        """Replaces broken characters among tokens that are single bytes.

        If one character of a run of bytes is broken, tokenizers with such tokens decode none of the run.
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
    """The text that a chat template writes after an answer, such as `"<|im_end|>\\n"`; empty without a template."""
    if not getattr(tokenizer, "chat_template", None):
        return ""
    answer = "answer"
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": answer}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template may refuse these messages with any error
        return ""
    return str(text).rpartition(answer)[2] if answer in str(text) else ""


def leading_special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that a tokenizer puts in front of every text, such as that of `<s>`."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    marked = zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
    return [id_ for id_, _ in takewhile(lambda pair: pair[1], marked)]
