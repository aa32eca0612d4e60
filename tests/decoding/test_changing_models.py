"""One processor on a reward model that changes gives what a new processor gives, whatever it has read before."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model

from rgtg_hf import RewardGuidedLogitsProcessor
from tests.rewards.test_model_state import CHANGES
from tests.scoring.text.text_models import BYTES, PIECES, causal
from tests.tiny_models import left_padded, tiny_next_token_model, tiny_policy, tiny_reward_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS, MASK = left_padded([[5, 6, 7, 8, 9], [10, 11]])


def sampled(policy, processor, length=5):
    return policy.generate(
        IDS,
        attention_mask=MASK,
        logits_processor=[processor],
        max_new_tokens=length,
        do_sample=False,
        eos_token_id=None,
    )


def processor_of(model, **arguments):
    return RewardGuidedLogitsProcessor(model, beta=5.0, top_k=6, **arguments)


@pytest.mark.parametrize("change", [name for name in CHANGES if name not in ("a resized embedding", "new adapters")])
@pytest.mark.parametrize("kind", [tiny_reward_model, lambda: tiny_reward_model("bloom"), tiny_next_token_model])
def test_what_other_weights_have_read_is_read_again(policy, change, kind):
    if kind is not tiny_reward_model and change == "load_state_dict":
        pytest.skip("the state is that of a Llama")
    model = kind()
    processor = processor_of(model)
    for length in (5, 5, 1, 1):
        sampled(policy, processor, length)
        CHANGES[change](model)
        assert torch.equal(sampled(policy, processor), sampled(policy, processor_of(model)))


def test_a_loop_over_single_tokens_sees_a_step_of_training(policy):
    model = tiny_reward_model()
    processor, ids = processor_of(model), IDS[:1]
    for _ in range(4):
        arguments = {"max_new_tokens": 1, "do_sample": False, "eos_token_id": None}
        found = policy.generate(ids, logits_processor=[processor], **arguments)
        assert torch.equal(found, policy.generate(ids, logits_processor=[processor_of(model)], **arguments))
        ids = found
        CHANGES["training"](model)


def test_adapters_that_are_switched_off_are_off(policy):
    model = get_peft_model(
        tiny_reward_model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    processor = processor_of(model)
    with_adapters = sampled(policy, processor)
    with model.disable_adapter():
        without = sampled(policy, processor)
        assert torch.equal(without, sampled(policy, processor_of(model)))
    assert not torch.equal(without, with_adapters)
    assert torch.equal(sampled(policy, processor), with_adapters)


def test_through_text_too():
    policy, model = tiny_policy(vocab_size=len(BYTES)), causal(PIECES)
    processor = processor_of(model, tokenizer=BYTES, reward_tokenizer=PIECES)
    sampled(policy, processor)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(-1)
    expected = sampled(policy, processor_of(model, tokenizer=BYTES, reward_tokenizer=PIECES))
    assert torch.equal(sampled(policy, processor), expected)


@pytest.mark.parametrize("kind", [tiny_reward_model, tiny_next_token_model])
def test_a_model_in_training_mode_is_read_in_evaluation_mode_and_left_in_it(policy, kind):
    model = kind(attention_dropout=0.5)
    expected = sampled(policy, processor_of(model))
    model.train()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    for processor in (processor_of(model), processor_of([model])):
        assert torch.equal(sampled(policy, processor), expected)
        assert all(module.training for module in model.modules())


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_an_offloaded_reward_model_steers(policy, family):
    model = tiny_reward_model(family)
    offloaded = copy.deepcopy(model)
    cpu_offload(offloaded, execution_device=torch.device("cpu"))
    assert torch.equal(sampled(policy, processor_of(offloaded)), sampled(policy, processor_of(model)))


@pytest.mark.parametrize("scorer", ["siblings", "expand", "reference"])
def test_a_text_longer_than_learned_positions_is_refused_before_it_is_read(policy, scorer):
    model = tiny_reward_model("gpt2", n_positions=9)
    processor = processor_of(model, scorer=scorer)
    assert sampled(policy, processor, length=4).shape[1] == 9
    with pytest.raises(ValueError, match=r"reads at most 9 tokens.* have 10"):
        sampled(policy, processor, length=5)


def test_an_output_layer_that_is_smaller_than_the_embedding_is_one_vocabulary(caplog):
    policy, model = tiny_policy(vocab_size=38), tiny_reward_model()
    found = sampled(policy, processor_of(model))
    assert "one vocabulary" in caplog.text
    assert torch.equal(found, sampled(policy, processor_of(model, scorer="reference")))
    with pytest.raises(ValueError, match="vocabularies differ"):
        sampled(tiny_policy(vocab_size=42), processor_of(model))
