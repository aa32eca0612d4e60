import pytest

from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence, compare_at_divergence
from rgtg_hf.evaluation.statistics import bootstrap_interval, paired_difference

POINTS = [FrontierPoint(4.0, [4.0, 0.0]), FrontierPoint(0.0, [0.0, 1.0]), FrontierPoint(1.0, [2.0, 1.0])]


@pytest.mark.parametrize(
    ("target", "gold"), [(0.0, [0.0, 1.0]), (0.5, [1.0, 1.0]), (1.0, [2.0, 1.0]), (2.5, [3.0, 0.5]), (4.0, [4.0, 0.0])]
)
def test_gold_is_linear_between_the_nearest_strengths_of_each_prompt(target, gold):
    assert at_divergence(POINTS, target) == gold


def test_nothing_is_extrapolated():
    assert at_divergence(POINTS, 4.1) is None
    with pytest.raises(ValueError, match="unguided policy"):
        at_divergence(POINTS[:1], 1.0)
    with pytest.raises(ValueError, match="unguided policy"):
        at_divergence([], 1.0)


def test_the_first_method_is_compared_with_each_other_prompt_by_prompt():
    better = [FrontierPoint(0.0, [0.0, 1.0, 2.0]), FrontierPoint(2.0, [3.0, 3.0, 6.0])]
    worse = [FrontierPoint(0.0, [0.0, 1.0, 2.0]), FrontierPoint(1.0, [1.0, 1.0, 2.0])]
    first, second = compare_at_divergence({"better": better, "worse": worse}, [1.0, 2.0, 3.0])
    differences = [1.5 - 1.0, 2.0 - 1.0, 4.0 - 2.0]
    assert first["kl"] == 1.0
    assert first["better"]["gold"] == pytest.approx(2.5)
    row = first["worse"]
    assert (row["behind"], row["behind_se"]) == pytest.approx(paired_difference([1.5, 2.0, 4.0], [1.0, 1.0, 2.0]))
    assert (row["behind_low"], row["behind_high"]) == pytest.approx(bootstrap_interval(differences))
    assert set(second) == {"kl", "better"}  # the other method does not reach two nats, and none reaches three
