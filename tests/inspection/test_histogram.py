"""The bars of a histogram are its probabilities, whatever their size."""

import xml.etree.ElementTree as ET

import pytest

from rgtg_hf.inspection.histogram import histogram_svg


@pytest.mark.parametrize("probabilities", [[0.25, 0.5, 0.25], [1.0, 0.0], [1 / 64] * 64, [0.999, 5e-4, 5e-4]])
def test_bars_are_in_proportion_and_within_the_picture(probabilities):
    svg = ET.fromstring(histogram_svg(probabilities, -2.0, 2.0))
    bars = [{name: float(value) for name, value in bar.attrib.items()} for bar in svg.findall("rect")]
    for bar, p in zip(bars, probabilities, strict=True):
        assert bar["height"] == pytest.approx(48 * p / max(probabilities), abs=0.06)
        assert bar["y"] + bar["height"] == pytest.approx(48, abs=0.11)
    assert all(bar["x"] >= 0 and bar["x"] + bar["width"] <= 300.1 for bar in bars)


def test_the_mean_and_the_ends_are_in_words():
    svg = ET.fromstring(histogram_svg([0.5, 0.25, 0.25], -2.0, 2.0))
    assert [text.text for text in svg.findall("text")] == ["\N{MINUS SIGN}2", "mean return \N{MINUS SIGN}0.50", "2"]
    assert svg.find("title").text == "How likely each return is; mean return \N{MINUS SIGN}0.50"
