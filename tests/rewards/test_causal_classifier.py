"""Models that can be read at every prefix pass, and all others are refused with one sentence."""

import pytest
from peft import PromptTuningConfig, get_peft_model

from rgtg_hf import NextTokenRewardModel
from rgtg_hf.rewards.causal_classifier import check_reward_model, vocabulary_size
from tests.tiny_models import (
    FAMILIES,
    VOCAB_SIZE,
    tiny_encoder,
    tiny_next_token_model,
    tiny_policy,
    tiny_reward_model,
    tiny_steering_head,
)

PASS = {
    **{family: lambda family=family: tiny_reward_model(family) for family in FAMILIES},
    "next token": tiny_next_token_model,
    "steering head": lambda: tiny_steering_head(tiny_policy()),
}


def bidirectional():
    model = tiny_reward_model()
    model.config.is_causal = False
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    return model


def bidirectional_without_rewards():
    model = bidirectional()
    model.score.weight.data.zero_()
    return model


def fresh_head_on_an_encoder():
    return NextTokenRewardModel.from_backbone(tiny_encoder(VOCAB_SIZE).bert)


def with_virtual_tokens():
    return get_peft_model(tiny_reward_model(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))


REFUSED = {
    "name": (lambda: "gpt2", TypeError, "`reward_model` is a str"),
    "two labels": (lambda: tiny_reward_model(num_labels=2), ValueError, "has num_labels=2"),
    "policy": (tiny_policy, ValueError, "num_labels"),
    "encoder": (lambda: tiny_encoder(VOCAB_SIZE), ValueError, "has no `score` head"),
    "bidirectional": (bidirectional, ValueError, "is not causal"),
    "bidirectional, fresh head": (fresh_head_on_an_encoder, ValueError, "is not causal"),
    "bidirectional, no rewards yet": (bidirectional_without_rewards, ValueError, "is not causal"),
    "virtual tokens": (with_virtual_tokens, ValueError, "uses prompt learning"),
}


@pytest.mark.parametrize("kind", PASS)
def test_a_model_with_a_reward_at_every_prefix_passes_and_is_left_as_it_was(kind):
    model = PASS[kind]().train()
    check_reward_model(model)
    assert model.training


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # called by PEFT
@pytest.mark.parametrize("kind", REFUSED)
def test_any_other_model_is_refused(kind):
    make, error, message = REFUSED[kind]
    with pytest.raises(error, match=message):
        check_reward_model(make())


def test_the_vocabulary_is_that_of_the_input_embedding():
    assert vocabulary_size(tiny_reward_model()) == VOCAB_SIZE
