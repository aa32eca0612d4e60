"""The head rates a token alike everywhere, and then by its context."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.rewards.token_head import TokenHead, token_increments

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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("nonlinear", [True, False])
@pytest.mark.parametrize("k", [3, 90, None])
@torch.no_grad()
def test_increments_are_computed_in_float32_whatever_the_dtype(dtype, nonlinear, k):
    # Weights are rounded, but no product of them: an increment of 8 bits is off by as much as small rewards differ.
    head = filled(nonlinear).to(dtype)
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(90, 5, generator=generator).to(dtype)
    hidden = HIDDEN.to(dtype)
    ids = None if k is None else torch.randint(90, (len(hidden), k), generator=generator)
    found = token_increments(head.directions(hidden), ids, embeddings)
    every = head._queries(hidden).double() @ head.key.weight.double() @ embeddings.double().T
    assert found.dtype == torch.float32
    assert_close(found.double(), every if ids is None else every.gather(1, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_rewards_of_known_sequences_are_sums_of_these_increments(dtype):
    head = filled(nonlinear=True).to(dtype)
    embeddings = torch.randn(40, 5, generator=torch.Generator().manual_seed(2)).to(dtype)
    ids, hidden = torch.arange(9)[None], HIDDEN.to(dtype)[None]
    rewards = head(hidden, ids, torch.ones_like(ids), embeddings)[0, :, 0]
    increments = token_increments(head.directions(hidden[0, :-1]), ids[0, 1:, None], embeddings)[:, 0]
    assert_close(rewards.diff(), increments, atol=1e-4, rtol=1e-4)


def test_no_float32_copy_of_all_embeddings_is_made():
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.dtype == torch.float32:
                largest.append(out.numel())
            return out

    embeddings = torch.zeros(20000, 64, dtype=torch.bfloat16)
    with Watch():
        token_increments(torch.ones(2, 64), None, embeddings)
    assert max(largest) <= embeddings.numel() // 4


@torch.no_grad()
def test_advantages_are_increments_less_their_mean_under_the_policy():
    head = filled(nonlinear=True)
    generator = torch.Generator().manual_seed(2)
    embeddings = torch.randn(40, 5, generator=generator)
    ids = torch.arange(9)[None]
    probabilities = torch.randn(9, 40, generator=generator).softmax(-1)
    rewards = head(HIDDEN[None], ids, torch.ones_like(ids), embeddings, (probabilities @ embeddings)[None])[0, :, 0]
    every = token_increments(head.directions(HIDDEN), None, embeddings)
    advantages = every - (probabilities * every).sum(-1, keepdim=True)
    assert_close(rewards.diff(), advantages[:-1].gather(1, ids[0, 1:, None])[:, 0], atol=1e-4, rtol=1e-4)
