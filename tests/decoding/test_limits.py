"""Limits keep each step within its bounds, and do nothing where it is within them anyway."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf import steering
from rgtg_hf.decoding.limits import limit_divergence
from tests.decoding.test_steering import step
from tests.tiny_models import tiny_steering_head


def divergence(guided, scores):
    guided, scores = guided.log_softmax(-1), scores.masked_fill(guided == float("-inf"), float("-inf")).log_softmax(-1)
    return (guided.exp() * (guided - scores)).nan_to_num(0.0).sum(-1)


def test_no_step_diverges_by_more_than_its_budget(policy):
    head = tiny_steering_head(policy)
    with steering(policy, [(head, 50.0)]) as processor:
        scores, free = step(policy, processor)
    with steering(policy, [(head, 50.0)], max_step_kl=0.2) as processor:
        scores, guarded = step(policy, processor)
    assert (divergence(free, scores) > 0.2).all()
    assert_close(divergence(guarded, scores), torch.full((len(scores),), 0.2), atol=1e-4, rtol=0)


def test_a_step_within_the_budget_is_left_as_it_is(policy):
    head = tiny_steering_head(policy)
    with steering(policy, [(head, 0.1)]) as processor:
        _, free = step(policy, processor)
    with steering(policy, [(head, 0.1)], max_step_kl=5.0, max_increment=50.0) as processor:
        assert torch.equal(step(policy, processor)[1], free)


def test_no_candidate_gains_or_loses_more_than_the_limit(policy):
    with steering(policy, [(tiny_steering_head(policy), 50.0)], max_increment=1.5) as processor:
        scores, guarded = step(policy, processor)
    change = (guarded - scores)[guarded > float("-inf")].abs()
    assert change.max() == pytest.approx(1.5, abs=1e-5)


def test_missing_candidates_take_no_part():
    scores = torch.tensor([[1.0, 0.0, float("-inf")]])
    increments = torch.tensor([[0.0, 9.0, 3.0]])
    full = limit_divergence(scores, increments, 0.3)
    assert_close(full[:, :2], limit_divergence(scores[:, :2], increments[:, :2], 0.3))
