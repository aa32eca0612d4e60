"""The log of E exp(b (r - V_b)) is 0 where a distribution is right, and says by how much soft values are off."""

import math

import pytest
import torch

from rgtg_hf.rewards.value_calibration import calibration, calibration_sums, trusted_value_beta
from rgtg_hf.rewards.value_model import soft_value

BINS = torch.linspace(-1.0, 1.0, 5)
TRUE = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1])


def calibrated(predicted, responses=20_000, weights=None, length=3):
    """The calibration of one distribution for all prefixes, on rewards drawn from the true one."""
    torch.manual_seed(0)
    rewards = BINS[TRUE.multinomial(responses, replacement=True)]
    weights = torch.ones(responses, length) if weights is None else weights
    logits = predicted.log().expand(responses, length, -1)
    sums = calibration_sums(logits, rewards, weights, BINS)
    return calibration({name: own.tolist() for name, own in sums.items()}, [-1.0, 1.0])


def test_the_true_distribution_is_right_at_every_b():
    found = calibrated(TRUE)
    assert found["value_beta"] == [0.5, 1, 2, 4, 8, 16, 32]
    for log, error in zip(found["log_ratio"], found["standard_error"], strict=True):
        assert abs(log) < 3 * error
        assert error < 0.03
    assert trusted_value_beta(found) == 32
    assert found["expected"] == pytest.approx([0.0], abs=1e-6)
    assert found["found"] == pytest.approx([0.0], abs=0.02)
    assert found["share"] == [1.0]


def test_a_thin_upper_end_is_found_out_at_large_b_only():
    thin = torch.tensor([0.14, 0.2, 0.4, 0.2, 0.06])
    found = calibrated(thin)
    for b, log in zip(found["value_beta"], found["log_ratio"], strict=True):
        exact = b * (soft_value(TRUE.log(), BINS, b) - soft_value(thin.log(), BINS, b))
        assert log == pytest.approx(float(exact), abs=0.08)
    assert found["log_ratio"][-1] == pytest.approx(math.log(0.1 / 0.06), abs=0.05)
    assert 1 <= trusted_value_beta(found) < 32


def test_few_responses_are_trusted_less():
    assert trusted_value_beta(calibrated(TRUE, responses=12)) < trusted_value_beta(calibrated(TRUE, responses=2000))


def test_the_error_is_that_of_the_mean_over_responses():
    found = [calibrated(TRUE, responses=400, length=length) for length in (1, 9)]
    assert found[0]["standard_error"] == pytest.approx(found[1]["standard_error"])  # prefixes of a response are one


def test_places_without_weight_do_not_count():
    weights = torch.ones(500, 3)
    weights[::2] = 0.0
    padded = calibrated(TRUE, 500, weights)
    assert padded["responses"] == 500
    assert all(map(math.isfinite, padded["log_ratio"]))
    torch.manual_seed(0)
    rewards = BINS[TRUE.multinomial(500, replacement=True)][1::2]
    sums = calibration_sums(TRUE.log().expand(250, 3, -1), rewards, torch.ones(250, 3), BINS)
    half = calibration({name: own.tolist() for name, own in sums.items()}, [-1.0, 1.0])
    assert padded["log_ratio"] == pytest.approx(half["log_ratio"])
    assert padded["found"] == pytest.approx(half["found"])


def test_what_is_not_a_number_is_not_trusted():
    found = calibrated(TRUE) | {"log_ratio": [float("nan")] * 7}
    assert trusted_value_beta(found) == 0
