"""The page shows the inspection, and nothing on it can act."""

import subprocess
import sys
from dataclasses import replace

import pytest

from rgtg_hf.config import resolve_guidance
from tests.inspection.pages import HOSTILE, Elements, make


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_makes_no_element_and_no_attribute(text):
    tame, hostile = (Elements(make([part, "end"], part).to_html()) for part in ("tame", text))
    assert [tag for tag, _ in hostile.found] == [tag for tag, _ in tame.found]
    assert [sorted(attributes) for _, attributes in hostile.found] == [sorted(a) for _, a in tame.found]
    make([text]).to_html().encode("utf-8")


def test_hostile_text_stays_in_the_frame_of_a_notebook():
    found = Elements(make(HOSTILE)._repr_html_()).found
    assert [tag for tag, _ in found] == ["iframe"]
    assert found[0][1]["sandbox"] == "allow-scripts"
    assert found[0][1]["srcdoc"] == make(HOSTILE).to_html()


def test_the_page_loads_nothing():
    source = make(["a", "b"]).to_html()
    elements = Elements(source).found
    loading = {"src", "href", "srcset", "action", "data", "poster"}
    assert not [(tag, a) for tag, a in elements if loading & set(a) or tag in ("link", "iframe", "img", "object")]
    assert "url(" not in source
    assert "@import" not in source
    policy = next(a["content"] for _, a in elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, "beta 1 · 10 candidates per step"),
        ({"beta": 4.0, "top_k": 0}, "beta 4 · all candidates per step"),
        ({"search": "best"}, "search best · 4 rows · blocks of 8 tokens · 10 candidates per step"),
        ({"search": "none", "beta": -1.0}, "search none · 4 rows · beta -1 · 10 candidates per step"),
        ({"search": "resample"}, "search resample · 4 rows · blocks of 8 tokens · beta 1 · 10 candidates per step"),
        ({"search": "none", "search_return": "draw"}, "search none · 4 rows · beta 1 · 10 candidates per step"),
    ],
)
def test_the_head_names_the_settings_that_made_a_difference(settings, shown):
    found = replace(make(["a"]), guidance_config=resolve_guidance(settings).config)
    assert f"reward model model · {shown} · sampled with seed 0" in " ".join(Elements(found.to_html()).text.split())


def test_an_empty_response_makes_a_page():
    assert "0 tokens" in make([]).to_html()


def test_the_command_line_recognises_a_page_without_loading_anything_heavy():
    code = "import sys, rgtg_hf.inspection.page; assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
