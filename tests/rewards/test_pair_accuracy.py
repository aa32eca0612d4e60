import pytest
import torch

from rgtg_hf.rewards.pair_accuracy import accuracy_curve, rewards_at_fraction


def test_a_fraction_below_one_never_reads_the_last_token():
    rewards = torch.arange(8.0)[None]
    for length in range(1, 9):
        for fraction in (0.25, 0.5, 0.75, 0.99):
            read = rewards_at_fraction(rewards, torch.tensor([length]), fraction).item() + 1
            assert 1 <= read <= max(1, length - 1)
        assert rewards_at_fraction(rewards, torch.tensor([length]), 1).item() == length - 1


def test_a_curve_has_means_and_standard_errors():
    curve = accuracy_curve({0.5: [1.0, 0.0, 1.0, 1.0], 1.0: [1.0] * 4})
    assert curve["fraction_read"] == [0.5, 1.0]
    assert curve["accuracy"] == [0.75, 1.0]
    assert curve["standard_error"] == pytest.approx([0.25, 0.0])
