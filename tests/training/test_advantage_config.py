import pytest

from rgtg_hf import AdvantageConfig


def test_the_defaults_suit_a_small_head(tmp_path):
    args = AdvantageConfig(str(tmp_path))
    assert (args.learning_rate, args.per_device_train_batch_size, args.weight_decay) == (3e-3, 16, 0.1)
    assert (args.rank, args.top_k, args.context_scale) == (128, 10, 0.001)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"top_k": 1}, ValueError, "no choice among fewer than 2"),
        ({"rank": 0}, ValueError, "`rank` is 0"),
        ({"rank": 2.5}, TypeError, "`rank`"),
        ({"max_weight": 0}, ValueError, "`max_weight` is 0, but must be above 0"),
        ({"context_scale": -1}, ValueError, "`context_scale` is -1, but must be at least 0"),
        ({"num_layers": 2}, ValueError, "a head reads the whole policy"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, given, error, words):
    with pytest.raises(error, match=words):
        AdvantageConfig(str(tmp_path), **given)
