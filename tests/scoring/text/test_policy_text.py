"""The policy's tokens become the text that they were written as, whatever they share with their neighbours."""

import pytest

from rgtg_hf.scoring.scorer import HostRow
from rgtg_hf.scoring.text.policy_text import PolicyText, leading_special_ids
from tests.scoring.text.text_models import BYTES, PIECES, one_row
from tests.scoring.text.tiny_tokenizers import byte_level, sentencepiece


def texts(tokenizer, prompt, response, candidates, reward_tokenizer=None, **settings):
    prefixes, candidates = one_row(tokenizer, prompt, response, candidates)
    ((base, *rest),) = PolicyText(tokenizer, reward_tokenizer, **settings).read(prefixes.on_host(candidates, None))
    return base, rest


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
@pytest.mark.parametrize("character", ["水", "é", "🙂"])
def test_half_a_character_is_left_out(tokenizer, character):
    whole = tokenizer(" and 水" + character, add_special_tokens=False)["input_ids"]
    for n in range(1, len(character.encode())):
        base, (candidate,) = texts(tokenizer, "The cat", whole[: -n - 1], whole[-n - 1 : -n])
        assert candidate.join() == base.join() == " and 水"
    base, (candidate,) = texts(tokenizer, "The cat", whole[:-1], whole[-1:])
    assert candidate.join() == " and 水" + character


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
def test_a_character_may_begin_in_the_prompt(tokenizer):
    prompt = tokenizer("Où est 水 は 川 を 流 れ る 水は川を流れる水")["input_ids"]
    ((base, candidate),) = PolicyText(tokenizer).read([HostRow(prompt[:-1], [], prompt[-1:], [0])])
    assert base.prompt == "Où est 水 は 川 を 流 れ る 水は川を流れる"
    assert (base.join(), candidate.join()) == ("", "水")


@pytest.mark.parametrize("tokenizer", [BYTES, PIECES], ids=["bytes", "pieces"])
def test_leading_spaces_survive(tokenizer):
    boats = tokenizer("The boats")["input_ids"][len(tokenizer("The")["input_ids"]) :]
    for n in range(len(boats)):
        base, (candidate,) = texts(tokenizer, "The cat", boats[:n], boats[n : n + 1])
        assert candidate.join().startswith(" ")
        assert candidate.join().startswith(base.join())
    _, (candidate,) = texts(tokenizer, "The cat", boats + boats[:-1], boats[-1:])
    assert candidate.join() == " boats boats"


def test_prompts_are_decoded_once():
    policy_text = PolicyText(BYTES)
    rows = [HostRow(BYTES.encode("The cat sat on the mat and the dog"), [], [30, 40], [0, 1])]
    policy_text.read(rows)
    kept = dict(policy_text._prompts)
    policy_text.read(rows)
    assert policy_text._prompts == kept
    assert len(kept) == 1


@pytest.mark.parametrize("bos", ["<|im_start|>", "<|endoftext|>"])
def test_a_prompt_keeps_the_special_tokens_that_it_was_given(bos):
    # SmolLM2's bos token is <|im_start|>, with which every chat begins; its tokenizer puts nothing in front by itself.
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = byte_level(special=special, bos_token=bos)
    reward_tokenizer = byte_level(20, special=special)
    prompt = f"{bos}user\nHi<|im_end|>\n"
    base, _ = texts(tokenizer, prompt, [], [30], reward_tokenizer)
    assert base.prompt == prompt


def test_tokens_that_the_tokenizer_puts_in_front_by_itself_have_no_text():
    known = sentencepiece(80)
    for ids in ([], [PIECES.bos_token_id], [PIECES.bos_token_id] * 2):  # chat templates may add a second one
        rows = [HostRow([*ids, *PIECES.encode("The cat", add_special_tokens=False)], [], [30], [0])]
        assert PolicyText(PIECES, known).read(rows)[0][0].prompt == "The cat"
    assert leading_special_ids(PIECES) == [PIECES.bos_token_id]
    assert leading_special_ids(BYTES) == []


def test_a_row_without_wanted_candidates_is_not_decoded():
    policy_text = PolicyText(BYTES)
    assert policy_text.read([HostRow([30, 31], [32], [], [])]) == [[]]
    assert not policy_text._prompts
