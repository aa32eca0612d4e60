"""Selections of rows: the best, and draws that are fair."""

import math
import random

import pytest

from rgtg_hf.decoding.selection import effective_size, log_mean_exp, normalized, power_for, ranked, resampled


def test_the_highest_come_first_and_of_equals_the_first():
    assert ranked([1.0, 3.0, 3.0, 2.0], 3) == [1, 2, 3]


def test_every_place_is_drawn_as_often_as_its_weight_says_rounded_up_or_down():
    chance = random.Random(0)
    for _ in range(200):
        log_weights = [chance.gauss(0, 2) for _ in range(chance.randrange(1, 9))]
        count = chance.randrange(1, 12)
        drawn = resampled(log_weights, count, chance.random())
        assert len(drawn) == count
        for place, weight in enumerate(normalized(log_weights)):
            assert math.floor(count * weight - 1e-9) <= drawn.count(place) <= math.ceil(count * weight + 1e-9)


def test_draws_are_unbiased():
    log_weights = [0.0, 1.0, -1.0]
    draws = [place for number in range(1000) for place in resampled(log_weights, 1, (number + 0.5) / 1000)]
    for place, weight in enumerate(normalized(log_weights)):
        assert draws.count(place) / 1000 == pytest.approx(weight, abs=2e-3)


def test_equal_weights_leave_rows_as_they_are():
    assert all(resampled([0.7] * 5, 5, uniform) == list(range(5)) for uniform in (0.0, 0.3, 0.999999))


def test_the_effective_size_is_the_number_of_rows_that_count():
    assert effective_size([2.0] * 4) == pytest.approx(4)
    assert effective_size([0.0, 0.0, -1e6]) == pytest.approx(2)


def test_weights_of_any_size_are_averaged():
    assert log_mean_exp([1000.0, 1000.0 + math.log(3)]) == pytest.approx(1000.0 + math.log(2))


def test_the_power_is_the_highest_that_leaves_enough_rows():
    chance = random.Random(0)
    for _ in range(100):
        log_weights = [chance.gauss(0, 5) for _ in range(chance.randrange(2, 9))]
        size = chance.uniform(1, len(log_weights))
        power = power_for(log_weights, size)
        assert effective_size([power * one for one in log_weights]) >= size
        if power < 1:
            assert effective_size([(power + 1e-6) * one for one in log_weights]) < size
    assert power_for([0.0, 50.0], size=0.0) == 1.0
    assert power_for([0.0, 1.0, 2.0], size=3.0) == pytest.approx(0.0, abs=1e-6)
