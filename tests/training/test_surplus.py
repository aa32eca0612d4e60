"""A response is compared with the others to its prompt, and their differences give the unit of rewards."""

import statistics

import pytest

from rgtg_hf.training.surplus import reward_unit, surpluses


def test_a_surplus_is_what_a_response_has_more_than_the_weighted_mean_of_the_others():
    found = surpluses("aaab", [1.0, 2.0, 6.0, 5.0], [1.0, 1.0, 3.0, 1.0])
    assert found == [1 - 20 / 4, 2 - 19 / 4, 6 - 3 / 2, None]


def test_equal_rewards_have_no_surplus_whatever_rounding_says():
    assert surpluses("aaa", [0.1, 0.1, 0.1], [1.0, 0.3, 0.7]) == [0, 0, 0]


def test_a_large_weight_does_not_swallow_those_of_the_others():
    rewards = [0.1, 0.5, 0.7]
    assert surpluses("aaa", rewards, [1.0, 2e-22, 2e-22]) == pytest.approx([0.1 - 0.6, 0.4, 0.6])


def test_the_unit_is_the_standard_deviation_within_prompts():
    rewards = [1.0, 2.0, 6.0, 101.0, 102.0, 106.0]
    found = reward_unit(surpluses("aaabbb", rewards, [1.0] * 6))
    assert found == pytest.approx(statistics.stdev(rewards[:3]) * (3 / 2) ** 0.5)  # the others' mean varies too


def test_there_is_no_unit_where_no_prompt_has_two_responses():
    assert reward_unit(surpluses("ab", [1.0, 2.0], [1.0, 1.0])) == 0
