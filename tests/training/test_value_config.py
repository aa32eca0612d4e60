import pytest

from rgtg_hf.training.value_config import PrefixValueConfig


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"num_bins": 1}, ValueError, "at least 2"),
        ({"num_bins": 2.5}, TypeError, "num_bins"),
        ({"targets": "one_hot"}, ValueError, "'two_hot', 'gaussian'"),
        ({"value_range": [1.0, 1.0]}, ValueError, "lower one"),
        ({"value_range": [0.0]}, TypeError, "two numbers"),
        ({"value_range": [0.0, float("inf")]}, ValueError, "finite"),
        ({"max_weight": 0.0}, ValueError, "must be above 0"),
        ({"num_layers": 0}, ValueError, "num_layers"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(tmp_path, settings, error, says):
    with pytest.raises(error, match=says):
        PrefixValueConfig(str(tmp_path), bf16=False, use_cpu=True, **settings)
