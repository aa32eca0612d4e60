from rgtg_hf.inspection.markup import escape, reward_scale, signed, tokens_html
from rgtg_hf.inspection.trace import Trace
from tests.inspection.pages import HOSTILE, Elements, make


def test_what_is_escaped_can_be_read_again():
    assert Elements(escape("".join(HOSTILE[:5]))).text == "".join(HOSTILE[:5])
    assert escape("a\u202eb\x00\t\ud800") == "a[U+202E]b\u2400\u21e5\ufffd"
    assert escape("👩\u200d🚀") == "👩\u200d🚀"


def test_every_token_tells_its_reward_and_candidates_without_colour():
    source = tokens_html(make(["Hello", " world"]).guided, 1.0, "Guided")
    elements = Elements(source)
    labels = [a["aria-label"] for _, a in elements.found if a.get("role") == "option"]
    assert labels == ["Hello, reward +0.50", "\N{OPEN BOX}world, reward \N{MINUS SIGN}0.50"]
    assert all(a["tabindex"] == "0" for _, a in elements.found if a.get("role") == "option")
    assert "25.0%" in elements.text
    assert "75.0%" in elements.text
    assert "KL 0.10 nats" in elements.text


def test_line_breaks_and_parts_of_characters_are_shown():
    source = tokens_html(make(["\n\n", "", "\r"]).guided, 1.0, "Guided")
    assert source.count("<br>") == 2
    assert "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}" * 2 in source
    assert "\N{DOTTED CIRCLE}" in source


def test_signs_and_scale():
    assert [signed(value) for value in (0.5, -0.5, 0.001, -0.001, float("nan"))] == [
        "+0.50",
        "\N{MINUS SIGN}0.50",
        "0.00",
        "0.00",
        "?",
    ]
    assert reward_scale([Trace()]) == 1.0
    assert reward_scale([make(["a", "b", "c"]).guided]) == 0.5
