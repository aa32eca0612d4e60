import math

import numpy as np
import pytest

from rgtg_hf.evaluation.statistics import bootstrap_interval, mean_with_error, paired_difference, win_rate


def test_error_is_the_standard_deviation_of_the_mean_not_of_the_values():
    values = np.random.default_rng(0).normal(size=50).tolist()
    mean, error = mean_with_error(values)
    assert mean == pytest.approx(np.mean(values))
    assert error == pytest.approx(np.std(values, ddof=1) / math.sqrt(50))


def test_pairing_takes_out_what_prompts_share():
    control = [10.0 * i for i in range(20)]
    treated = [value + 1 + 0.1 * (-1) ** i for i, value in enumerate(control)]
    mean, error = paired_difference(treated, control)
    assert mean == pytest.approx(1.0)
    assert error < 0.05 < mean_with_error(treated).error


def test_a_single_value_has_no_known_error():
    assert math.isnan(mean_with_error([1.0]).error)


def test_no_values_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        mean_with_error([])


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="2 and 1"):
        paired_difference([1.0, 2.0], [1.0])


def test_bootstrap_interval_is_that_of_the_normal_approximation_for_many_values():
    values = [math.sin(7 * i) for i in range(400)]
    mean, error = mean_with_error(values)
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)
    assert (low, high) == bootstrap_interval(values)


def test_bootstrap_interval_of_equal_values_is_a_point():
    assert bootstrap_interval([2.0, 2.0], resamples=10) == (2.0, 2.0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


def test_ties_are_half_a_win():
    assert win_rate([1.0, 0.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0]).mean == 2.5 / 4
    with pytest.raises(ValueError, match="same prompts"):
        win_rate([1.0], [])
