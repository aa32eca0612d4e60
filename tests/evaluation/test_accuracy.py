import math

import pytest
import torch

from rgtg_hf.evaluation.accuracy import accuracy_by_fraction
from rgtg_hf.rewards.prefix_rewards import prefix_rewards

PAIRS = [
    ([1, 5, 6], [7, 8, 9, 10], [11, 12, 13]),
    ([1, 7], [20, 21, 2], [22, 23, 24, 25, 26, 27]),
    ([1, 8, 9], [30], [31, 32]),
]


def as_rows(pairs):
    return [
        {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected, "prompt_length": len(prompt)}
        for prompt, chosen, rejected in pairs
    ]


def reward(model, prompt, response, fraction):
    """Reads the beginning of a response by itself."""
    kept = len(response) if fraction == 1 else max(1, math.ceil(fraction * (len(response) - 1)))
    return prefix_rewards(model, torch.tensor([prompt + response[:kept]]))[0, -1].item()


def test_accuracy_is_that_of_each_response_cut_at_its_own_fraction(reward_model):
    found = accuracy_by_fraction(reward_model, as_rows(PAIRS))
    for fraction, accuracy in zip(found["fraction_read"], found["accuracy"], strict=True):
        wins = [
            reward(reward_model, prompt, chosen, fraction) > reward(reward_model, prompt, rejected, fraction)
            for prompt, chosen, rejected in PAIRS
        ]
        assert accuracy == pytest.approx(sum(wins) / len(wins))
    assert found["pairs"] == len(PAIRS)
    assert found["fraction_read"][-1] == 1.0


def test_a_tie_counts_half(reward_model):
    found = accuracy_by_fraction(reward_model, as_rows([([1, 5], [6, 7], [6, 7])]))
    assert set(found["accuracy"]) == {0.5}


def test_only_pairs_of_similar_length_are_kept(reward_model):
    assert accuracy_by_fraction(reward_model, as_rows(PAIRS), max_gap=0.3)["pairs"] == 1
    with pytest.raises(ValueError, match="No pair of 3"):
        accuracy_by_fraction(reward_model, as_rows(PAIRS), max_gap=0.1)
