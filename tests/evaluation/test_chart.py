import re
from xml.etree import ElementTree

import pytest

from rgtg_hf.evaluation.chart import Series, draw_reward_vs_kl, draw_series
from rgtg_hf.evaluation.report import ReportRow


def test_methods_are_drawn_into_a_png(tmp_path):
    path = tmp_path / "chart.png"
    series = [Series("guided", [0, 1], [0.1, 0.5], [0.1, 0.1]), Series("best-of-n", [0.6], [0.3], line=False)]
    draw_series(series, path, title="Two methods", x_name="KL", y_name="gold")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("length", [1, 40])
def test_a_picture_for_a_page_takes_its_colour_and_brings_no_style_of_its_own(tmp_path, length):
    names = [f"{place} {'long name' * length}"[:60] for place in range(3)]
    series = [Series(name, [0, 1], [0.1, 0.5]) for name in names]
    for file in ("c.svg", "d.svg"):
        draw_series(series, tmp_path / file, title="A < B", x_name="KL", y_name="y")
    svg = (tmp_path / "c.svg").read_text()
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "A < B"
    assert "currentColor" in svg
    assert "<style" not in svg
    letters = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A < B", "KL", *names} <= set(letters)
    one, other = (set(re.findall(r'id="([pm][0-9a-f]{10})"', (tmp_path / f"{name}.svg").read_text())) for name in "cd")
    assert one
    assert not one & other


def test_rows_of_a_report_are_drawn_into_a_png(tmp_path):
    rows = [ReportRow("m", beta, 0.2 + beta / 10, 0.05, 0.0, 0.0, beta**2, 9.0) for beta in (0.0, 1.0, 2.0)]
    draw_reward_vs_kl(rows, tmp_path / "chart.png", title="Title", reward_name="Sentiment")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_a_logarithmic_axis_has_plain_numbers(tmp_path):
    draw_series(
        [Series("guided", [0.3, 4.0], [0.1, 0.5])], tmp_path / "c.svg", title="T", x_name="KL", y_name="y", log_x=True
    )
    svg = (tmp_path / "c.svg").read_text()
    assert {">0.5<", ">1<", ">2<"} <= set(re.findall(r">[0-9.]+<", svg))
