"""The loss of values is the cross-entropy at every prefix, which is least at the distribution of the return."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.training.value_loss import return_targets, value_losses, value_metrics

BINS = torch.linspace(-1.0, 1.0, 9)


@pytest.mark.parametrize("kind", ["two_hot", "gaussian"])
def test_targets_are_distributions_around_the_reward(kind):
    rewards = torch.tensor([-1.0, -0.3, 0.0, 0.625, 1.0])
    targets = return_targets(rewards, BINS, kind)
    assert_close(targets.sum(-1), torch.ones(5))
    inside = slice(1, 4)  # at the ends a Gaussian is cut off
    assert_close((targets * BINS).sum(-1)[inside], rewards[inside], atol=0.02 if kind == "gaussian" else 1e-6, rtol=0)
    assert (targets[2] > 0.01).sum() == (5 if kind == "gaussian" else 1)


@pytest.mark.parametrize("kind", ["two_hot", "gaussian"])
def test_the_nearest_bin_stands_for_a_reward_outside(kind):
    outside = return_targets(torch.tensor([-9.0, 1.5]), BINS, kind)
    assert_close(outside, return_targets(torch.tensor([-1.0, 1.0]), BINS, kind))


def test_the_loss_and_its_gradient_are_those_of_one_prefix_at_a_time():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 9, requires_grad=True)
    targets = return_targets(torch.tensor([-0.4, 0.9]), BINS, "two_hot")
    losses = value_losses(logits, targets)
    losses.sum().backward()
    found = logits.grad.clone()
    logits.grad = None
    slow = torch.stack(
        [torch.nn.functional.cross_entropy(logits[row, place], targets[row]) for row in range(2) for place in range(3)]
    )
    slow.sum().backward()
    assert_close(losses.flatten(), slow)
    assert_close(found, logits.grad)


def test_it_is_least_at_the_distribution_of_the_returns():
    """Descent on one prefix that was followed by several returns."""
    rewards = torch.tensor([-1.0, 0.5, 0.5, 1.0])
    targets = return_targets(rewards, BINS, "two_hot")
    logits = torch.zeros(1, 1, 9, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(400):
        optimizer.zero_grad()
        value_losses(logits.expand(4, 1, 9), targets).mean().backward()
        optimizer.step()
    assert_close(logits.softmax(-1)[0, 0], targets.mean(0), atol=2e-3, rtol=0)


def test_errors_are_those_of_the_mean_after_parts_of_the_response():
    sure = torch.full((1, 7, 9), -50.0)
    for place, bin_ in enumerate(
        [0, 0, 8, 4, 8, 0, 0]
    ):  # the response is at the places 1 to 5, after two of the prompt
        sure[0, place, bin_] = 50.0
    is_prefix = torch.tensor([[False, True, True, True, True, True, False]])
    found = value_metrics(sure, torch.tensor([1.0]), is_prefix, BINS)
    expected = {"0": 4.0, "25": 0.0, "50": 1.0, "75": 0.0, "100": 4.0}
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {f"squared_error_at_{at}": value for at, value in expected.items()}
    )
