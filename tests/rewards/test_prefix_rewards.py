import threading

import torch

from rgtg_hf.rewards.prefix_rewards import capture_scores
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
