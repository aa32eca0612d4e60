"""A value model is read as the soft value of its histogram, and nothing of it is changed or copied."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.rewards.sequence_rewards import sequence_rewards
from rgtg_hf.rewards.value_model import as_reward_model, bins_of, is_value_model, soft_value, two_hot
from tests.tiny_models import tiny_reward_model

BINS = torch.linspace(-1.0, 1.0, 5)
IDS = torch.tensor([[5, 6, 7, 8]])


def value_model(**settings):
    return tiny_reward_model(**{"num_labels": 5, "value_range": [-1.0, 1.0]} | settings).eval()


@pytest.mark.parametrize("value_beta", [-3.0, -0.01, 0.0, 1e-6, 0.5, 4.0, 50.0])
def test_the_soft_value_is_its_formula(value_beta):
    torch.manual_seed(0)
    logits = torch.randn(3, 5, dtype=torch.float64)
    p, z = logits.softmax(-1), BINS.double()
    expected = (p * z).sum(-1) if value_beta == 0 else (p * (value_beta * z).exp()).sum(-1).log() / value_beta
    assert_close(soft_value(logits.float(), BINS, value_beta), expected.float(), atol=2e-6, rtol=1e-5)


def test_the_soft_value_grows_with_its_beta_from_the_mean_to_the_best_that_can_come():
    logits = torch.tensor([0.5, 1.0, -1.0, 0.0, 0.2])
    values = [float(soft_value(logits, BINS, value_beta)) for value_beta in (-80.0, -1.0, 0.0, 1.0, 80.0)]
    assert values == sorted(values)
    assert values[0] < -0.9
    assert values[-1] > 0.9


def test_targets_are_distributions_whose_mean_is_the_return():
    returns = torch.tensor([-1.0, -0.9, 0.0, 0.3, 1.0])
    targets = two_hot(returns, BINS)
    assert_close(targets.sum(-1), torch.ones(5))
    assert_close((targets * BINS).sum(-1), returns)
    assert bool((targets > 0).sum(-1).le(2).all())


@torch.no_grad()
@pytest.mark.parametrize("value_beta", [0.0, 3.0])
def test_its_prefix_rewards_are_the_soft_values_of_the_histogram_at_every_prefix(value_beta):
    model = value_model()
    rewards = prefix_rewards(as_reward_model(model, value_beta), IDS)
    logits = model.score(model.model(IDS).last_hidden_state)
    assert_close(rewards, soft_value(logits, BINS, value_beta))
    assert_close(sequence_rewards(as_reward_model(model, value_beta), IDS.tolist()), [rewards[0, -1].item()])


@torch.no_grad()
def test_a_value_model_as_it_is_gives_its_mean_returns():
    model = value_model()
    assert torch.equal(prefix_rewards(model, IDS), prefix_rewards(as_reward_model(model, 0.0), IDS))


def test_the_model_that_was_given_is_left_as_it_was_and_shares_its_weights():
    model = value_model()
    before = dict(model.named_modules())
    other = as_reward_model(model, 1.0)
    assert dict(model.named_modules()) == before
    assert (model.config.num_labels, other.config.num_labels) == (5, 1)
    assert is_value_model(model)
    assert not is_value_model(other)
    assert {id(weight) for weight in model.parameters()} == {id(weight) for weight in other.parameters()}
    assert as_reward_model(other) is other


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_value_model_with_an_adapter_is_read_with_it():
    model = get_peft_model(value_model(), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])).eval()
    rewards = prefix_rewards(as_reward_model(model, 2.0), IDS)
    inner = model.base_model.model
    assert_close(rewards, soft_value(inner.score(inner.model(IDS).last_hidden_state), BINS, 2.0))


def test_it_is_an_ordinary_checkpoint(tmp_path):
    value_model().save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.config.num_labels == 5
    assert bins_of(loaded.config).tolist() == BINS.tolist()


@pytest.mark.parametrize("settings", [{"value_range": [1.0, 1.0]}, {"value_range": [math.nan, 1]}, {"num_labels": 1}])
def test_a_histogram_that_cannot_be_one_is_refused(settings):
    with pytest.raises(ValueError, match="value_range="):
        as_reward_model(value_model(**settings))


def test_a_soft_value_beyond_what_was_found_right_is_warned_of_once(caplog):
    model = value_model(trusted_value_beta=8.0)
    for _ in range(2):
        as_reward_model(model, 8.0)
        as_reward_model(model, 9.0)
    assert [record.message.split(",")[0] for record in caplog.records] == ["`value_beta` is 9"]
    assert "right only up to 8." in caplog.text


def test_a_value_model_that_was_not_evaluated_is_not_warned_of(caplog):
    as_reward_model(value_model(), 900.0)
    assert not caplog.records
