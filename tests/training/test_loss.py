import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import GPT2Config, GPT2ForSequenceClassification

from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.training.loss import (
    align_prefixes,
    prefix_bradley_terry_loss,
    prefix_metrics,
    prefix_weights,
)
from tests.training.helpers import make_reward_model

PAD = 0


def make_pairs(seed=0, number=5):
    """Pairs (prompt, chosen, rejected) of random ids; lengths of prompts and responses all differ."""
    generator = torch.Generator().manual_seed(seed)

    def ids(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, 30, (length,), generator=generator).tolist()

    return [(ids(1, 5), ids(1, 9), ids(1, 9)) for _ in range(number)]


def one_pass_inputs(pairs):
    rows = [p + c for p, c, _ in pairs] + [p + r for p, _, r in pairs]
    longest = max(map(len, rows))
    input_ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    prompt = torch.tensor([len(p) for p, _, _ in pairs])
    response = torch.tensor([len(c) for _, c, _ in pairs] + [len(r) for _, _, r in pairs])
    return input_ids, prompt, response


def expanded_loss(model, pairs, after_end):
    """The same loss the slow way: each prefix pair is an example of its own, scored by its own forward passes."""
    losses = []
    for prompt, chosen, rejected in pairs:
        last = (max if after_end == "hold" else min)(len(chosen), len(rejected))
        for i in range(1, last + 1):
            scores = [model(input_ids=torch.tensor([prompt + y[:i]])).logits[0, 0] for y in (chosen, rejected)]
            losses.append(-F.logsigmoid(scores[0] - scores[1]))
    return torch.stack(losses).mean()


def make_gpt2():
    torch.manual_seed(5)
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32, num_labels=1, pad_token_id=PAD)
    ).eval()


# Llama computes its norms in float32 whatever the model's dtype; GPT-2 is float64 throughout.
@pytest.mark.parametrize(("make_model", "tolerance"), [(make_gpt2, 1e-12), (make_reward_model, 1e-5)])
@pytest.mark.parametrize("after_end", ["hold", "drop"])
def test_one_pass_loss_and_gradients_equal_those_of_the_expanded_data_set(make_model, tolerance, after_end):
    """Law 9 of the design."""
    model = make_model().double()
    pairs = make_pairs()
    slow = expanded_loss(model, pairs, after_end)
    slow_gradients = torch.autograd.grad(slow, model.parameters())

    input_ids, prompt, response = one_pass_inputs(pairs)
    rewards = prefix_rewards(model, input_ids, (input_ids != PAD).long())
    chosen, rejected = align_prefixes(rewards, prompt, response)
    weights = prefix_weights(response, input_ids.shape[1], after_end=after_end)
    fast = prefix_bradley_terry_loss(chosen, rejected, weights)
    gradients = torch.autograd.grad(fast, model.parameters())

    assert_close(fast, slow, rtol=tolerance, atol=tolerance)
    for gradient, slow_gradient in zip(gradients, slow_gradients, strict=True):
        assert_close(gradient, slow_gradient, rtol=tolerance, atol=tolerance)


def test_prefix_i_is_read_at_response_token_i_counted_from_one():
    rewards = torch.arange(12.0).view(2, 6)
    chosen, rejected = align_prefixes(rewards, torch.tensor([2]), torch.tensor([4, 3]))
    assert chosen[0, :4].tolist() == [2, 3, 4, 5]
    assert rejected[0, :3].tolist() == [8, 9, 10]


def test_past_the_end_the_last_reward_stands_in():
    rewards = torch.arange(12.0).view(2, 6)
    _, rejected = align_prefixes(rewards, torch.tensor([1]), torch.tensor([5, 2]))
    assert rejected[0].tolist() == [7, 8, 8, 8, 8, 8]


def test_half_precision_rewards_are_compared_in_float32():
    chosen, _ = align_prefixes(torch.ones(2, 3).bfloat16(), torch.tensor([1]), torch.tensor([2, 2]))
    assert chosen.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 1, 1, 1, 1, 1, 0, 0]),
        ({"after_end": "drop"}, [1, 1, 1, 0, 0, 0, 0, 0]),
        ({"prefixes": "stride", "prefix_stride": 4}, [0, 0, 0, 1, 0, 1, 0, 0]),
        ({"shared_length": torch.tensor([2])}, [0, 0, 1, 1, 1, 1, 0, 0]),
        ({"after_end": "drop", "shared_length": torch.tensor([3])}, [0, 0, 1, 0, 0, 0, 0, 0]),
        ({"position_weights": "increasing"}, [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 0, 0]),
        ({"position_weights": "decreasing"}, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0]),
    ],
)
def test_options_choose_and_weigh_prefixes(options, expected):
    weights = prefix_weights(torch.tensor([6, 3]), 8, **options)
    assert_close(weights, torch.tensor([expected], dtype=torch.float32))


def test_random_prefixes_are_as_many_as_asked_and_depend_on_the_seed_alone():
    lengths = torch.tensor([6, 2, 3, 2])

    def draw(num_columns, seeds):
        return prefix_weights(lengths, num_columns, prefixes="random", prefixes_per_pair=4, row_seeds=seeds)

    weights = draw(8, [5, 6])
    assert weights.sum(1).tolist() == [4, 2]
    assert_close(weights, draw(12, [5, 6])[:, :8])
    drawn = torch.cat([draw(8, [seed, 0])[:1] for seed in range(50)])
    assert (drawn.mean(0)[:6] > 0.4).all()


def test_loss_is_the_weighted_mean_of_bradley_terry_losses():
    chosen, rejected = torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.5, -1.0, 0.0]])
    weights = torch.tensor([[1.0, 3.0, 0.0]])
    margin = torch.tensor([0.25])
    expected = (F.softplus(torch.tensor(-0.25)) + 3 * F.softplus(torch.tensor(-2.75))) / 4
    assert_close(prefix_bradley_terry_loss(chosen, rejected, weights, margin=margin), expected)
    centered = prefix_bradley_terry_loss(chosen, rejected, weights, margin=margin, center_rewards_coefficient=0.1)
    assert_close(centered, expected + 0.1 * (1.5**2 + 3 * 1.0**2) / 4)


def test_metrics_count_wins_and_give_half_a_win_to_a_tie():
    chosen = torch.tensor([[0.0, 1.0, 3.0, 3.0, 0.0]])
    rejected = torch.tensor([[0.0, 2.0, 1.0, 2.0, 9.0]])
    metrics = prefix_metrics(chosen, rejected, torch.tensor([3, 4]))
    assert metrics["accuracy"].item() == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    assert metrics["margin"].item() == pytest.approx((0 - 1 + 2 + 1) / 4)
    assert metrics["accuracy_at_25"].item() == 0.5
    assert metrics["accuracy_at_100"].item() == 1
    assert metrics["margin_at_100"].item() == 1
    # Half of three tokens is the first; half of four is the second.
    assert metrics["margin_at_50"].item() == -2
