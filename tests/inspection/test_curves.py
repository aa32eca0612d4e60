import re
import xml.etree.ElementTree as ET

import pytest

from rgtg_hf.inspection.curves import curves_svg


@pytest.mark.parametrize("values", [[], [0.0], [1e-9, -1e-9], [5.0, -3.0, 2.0], [1e6], [float("nan")], [-2.0, -7.0]])
def test_curves_lie_within_the_picture(values):
    svg = ET.fromstring(curves_svg("Title", "Words", [("guided", values), ("unguided", [])]))
    points = [tuple(map(float, p.split(","))) for p in re.findall(r"[-\d.]+,[-\d.]+", ET.tostring(svg, "unicode"))]
    assert len(points) == len(values) + 2
    assert all(0 <= x <= 360 and 0 <= y <= 210 for x, y in points)
    assert svg.find("title").text == "Title"
    assert 2 <= len(svg.findall("path")) <= 8
