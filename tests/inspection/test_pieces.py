import pytest

from rgtg_hf.inspection.pieces import TextPieces


@pytest.mark.parametrize(
    "text", ["plain words", "aß€🙂\n", "\N{REPLACEMENT CHARACTER} is a character too", "👩\u200d🚀!"]
)
def test_pieces_join_to_the_text(tokenizer, text):
    pieces = TextPieces(tokenizer)
    pieces.begin(tokenizer("before")["input_ids"])
    found = [pieces.add(token) for token in tokenizer(text)["input_ids"]]
    assert "".join(found) + pieces.rest() == text


def test_a_look_at_the_next_token_changes_nothing(tokenizer):
    pieces = TextPieces(tokenizer)
    pieces.begin([])
    first, second = tokenizer("ab")["input_ids"]
    assert (pieces.after(second), pieces.add(first), pieces.after(second), pieces.add(second)) == ("b", "a", "b", "b")


def test_an_unfinished_character_is_given_at_the_end(tokenizer):
    pieces = TextPieces(tokenizer)
    pieces.begin([])
    assert [pieces.add(token) for token in tokenizer("🙂")["input_ids"][:2]] == ["", ""]
    assert pieces.rest() == "\N{REPLACEMENT CHARACTER}"
    assert pieces.rest() == ""
