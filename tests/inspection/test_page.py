"""The page says what the inspection holds, and nothing that it shows can act."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from rgtg_hf.inspection.curves import curves_svg
from rgtg_hf.inspection.inspect import Inspection
from rgtg_hf.inspection.markup import escape, reward_scale, signed, tokens_html
from rgtg_hf.inspection.page import page
from rgtg_hf.inspection.trace import Candidate, Step, Trace

HOSTILE = [
    "<script>alert(1)</script>",
    "</style></script><img src=x onerror=alert(1)>",
    "\" onmouseover='alert(1)' x=\"",
    "</bdi></span></div></iframe><svg onload=alert(1)>",
    "<!--",
    "]]>",
    "&lt;script&gt;",
    "javascript:alert(1)",
    "\u202eevil\u2066",
    "\x00\x1b[31m\x85",
    "\ud800",
    "{{7*7}}${7*7}%s%(x)s{0}",
    "`${alert(1)}`",
]


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside scripts and styles."""

    def __init__(self, source):
        super().__init__()
        self.found, self.text, self._raw = [], "", False
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._raw = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._raw = False

    def handle_data(self, data):
        if not self._raw:
            self.text += data


def make(texts, name="model"):
    steps = [
        Step(text, False, 0.5 - i % 3, 0.1, (Candidate(text, 0.25, -1.0, 0.75, True),)) for i, text in enumerate(texts)
    ]
    return Inspection("\n".join(texts), name, name, 1.5, 5, 0, Trace(steps, 1.0), Trace(steps, 1.0))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_makes_no_element_and_no_attribute(text):
    tame, hostile = (Elements(page(make([part, "end"], part))) for part in ("tame", text))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in tame.found]
    assert [sorted(attributes) for _, attributes in hostile.found] == [sorted(a) for _, a in tame.found]
    page(make([text])).encode("utf-8")


def test_hostile_text_stays_in_the_frame_of_a_notebook():
    found = Elements(make(HOSTILE)._repr_html_()).found
    assert [tag for tag, _ in found] == ["iframe"]
    assert found[0][1]["sandbox"] == "allow-scripts"
    assert found[0][1]["srcdoc"] == page(make(HOSTILE))


def test_what_is_escaped_can_be_read_again():
    assert Elements(escape("".join(HOSTILE[:5]))).text == "".join(HOSTILE[:5])
    assert escape("a\u202eb\x00\t\ud800") == "a[U+202E]b\u2400\u21e5\ufffd"
    assert escape("👩\u200d🚀") == "👩\u200d🚀"


def test_the_page_loads_nothing():
    source = page(make(["a", "b"]))
    elements = Elements(source).found
    loading = {"src", "href", "srcset", "action", "data", "poster"}
    assert not [(tag, a) for tag, a in elements if loading & set(a) or tag in ("link", "iframe", "img", "object")]
    assert "url(" not in source
    assert "@import" not in source
    policy = next(a["content"] for _, a in elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_every_token_tells_its_reward_and_candidates_without_colour():
    source = tokens_html(make(["Hello", " world"]).steered, 1.0, "Steered")
    elements = Elements(source)
    labels = [a["aria-label"] for _, a in elements.found if a.get("role") == "option"]
    assert labels == ["Hello, reward +0.50", "\N{OPEN BOX}world, reward \N{MINUS SIGN}0.50"]
    assert all(a["tabindex"] == "0" for _, a in elements.found if a.get("role") == "option")
    assert "25.0%" in elements.text
    assert "75.0%" in elements.text
    assert "KL 0.10 nats" in elements.text


def test_line_breaks_and_parts_of_characters_are_shown():
    source = tokens_html(make(["\n\n", "", "\r"]).steered, 1.0, "Steered")
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
    assert reward_scale([make(["a", "b", "c"]).steered]) == 0.5


@pytest.mark.parametrize("values", [[], [0.0], [1e-9, -1e-9], [5.0, -3.0, 2.0], [1e6], [float("nan")], [-2.0, -7.0]])
def test_curves_lie_within_the_picture(values):
    svg = ET.fromstring(curves_svg("Title", "Words", [("steered", values), ("unsteered", [])]))
    points = [tuple(map(float, p.split(","))) for p in re.findall(r"[-\d.]+,[-\d.]+", ET.tostring(svg, "unicode"))]
    assert len(points) == len(values) + 2
    assert all(0 <= x <= 360 and 0 <= y <= 210 for x, y in points)
    assert svg.find("title").text == "Title"
    assert 2 <= len(svg.findall("path")) <= 8


def test_an_empty_response_makes_a_page():
    assert "0 tokens" in page(make([]))
