import threading

import pytest
import torch

from rgtg_hf.rewards.prefix_rewards import capture_scores, return_distributions
from tests.tiny_models import tiny_reward_model


def test_rewards_are_those_of_the_own_threads_calls():
    model = tiny_reward_model()
    with torch.no_grad(), capture_scores(model) as captured:
        other = threading.Thread(target=model, args=(torch.tensor([[5, 6, 7]]),))
        other.start()
        other.join()
        assert captured == []
        model(torch.tensor([[5, 6]]))
    assert [tuple(scores.shape) for scores in captured] == [(1, 2, 1)]


def test_a_model_without_bins_has_no_distribution_of_returns():
    with pytest.raises(ValueError, match="without `value_range` in its configuration, but a value model is required"):
        return_distributions(tiny_reward_model(), torch.tensor([[5, 6]]))
