import pytest

from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence

POINTS = [FrontierPoint(4.0, [4.0, 0.0]), FrontierPoint(0.0, [0.0, 1.0]), FrontierPoint(1.0, [2.0, 1.0])]


@pytest.mark.parametrize(
    ("target", "gold"), [(0.0, [0.0, 1.0]), (0.5, [1.0, 1.0]), (1.0, [2.0, 1.0]), (2.5, [3.0, 0.5]), (4.0, [4.0, 0.0])]
)
def test_gold_is_linear_between_the_nearest_strengths_of_each_prompt(target, gold):
    assert at_divergence(POINTS, target) == gold


def test_nothing_is_extrapolated():
    assert at_divergence(POINTS, 4.1) is None
    with pytest.raises(ValueError, match="unsteered policy"):
        at_divergence(POINTS[:1], 1.0)
    with pytest.raises(ValueError, match="unsteered policy"):
        at_divergence([], 1.0)
