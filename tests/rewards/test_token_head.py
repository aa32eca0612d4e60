"""The head rates a token alike everywhere, and then by its context."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.rewards.token_head import TokenHead

HIDDEN = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)) + 1


def filled(nonlinear, context_scale=1.0):
    head = TokenHead(6, 5, 4, nonlinear, 0.0, context_scale)
    head.center(HIDDEN)
    torch.manual_seed(1)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def spread_over_contexts(head):
    directions = head.directions(HIDDEN).detach()
    return float((directions - directions.mean(0)).norm() / directions.norm())


def test_without_a_context_a_network_rates_tokens_alike_everywhere():
    head = filled(nonlinear=True, context_scale=0.0)
    assert_close(head.directions(HIDDEN), (head.bias @ head.key.weight).expand(9, -1))


@pytest.mark.parametrize("nonlinear", [True, False])
def test_the_scale_says_how_much_the_context_counts(nonlinear):
    scales = [spread_over_contexts(filled(nonlinear, scale)) for scale in (0.0, 0.1, 1.0)]
    assert scales[0] < scales[1] < scales[2]


def test_a_linear_head_is_its_formula_and_linear():
    head = filled(nonlinear=False, context_scale=0.3)
    common = (HIDDEN @ head.mean / (head.mean @ head.mean))[:, None]
    context = head.query((HIDDEN - common * head.mean) / head.spread)
    expected = (common * head.bias + 0.3 * context) @ head.key.weight
    assert_close(head.directions(HIDDEN), expected, atol=1e-5, rtol=1e-5)
    assert_close(head.directions(HIDDEN[:1] + 2 * HIDDEN[1:2]), expected[:1] + 2 * expected[1:2], atol=1e-4, rtol=1e-4)


def test_only_a_fresh_linear_head_is_told_what_hidden_states_are_like():
    head = filled(nonlinear=False)
    before = head.linear_map().clone()
    head.center(HIDDEN + 5)
    assert torch.equal(head.linear_map(), before)
