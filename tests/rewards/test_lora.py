"""A policy with heads as a LoRA adapter is the steered policy."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from rgtg_hf import steering
from rgtg_hf.rewards.lora import heads_as_lora
from tests.families import EVERY, tiny_language_model
from tests.rewards.test_merge import CAPPED, PROMPTS
from tests.tiny_models import left_padded, tiny_policy, tiny_steering_head

pytestmark = [
    # transformers 5.5 calls its own functions by a name that it is about to retire.
    pytest.mark.filterwarnings("ignore:`input_embeds` is deprecated:FutureWarning"),
    # PEFT asks transformers a question by a name that transformers is about to retire.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # PEFT warns that the output embedding is tied. An adapter beside it is right, which is tested here.
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning"),
]


@torch.no_grad()
@pytest.mark.parametrize("family", sorted(EVERY))
def test_an_adapted_policy_of_any_family_is_the_steered_one_or_is_refused_in_a_sentence(tmp_path, family):
    policy = tiny_language_model(family)
    heads = [(tiny_steering_head(policy, seed, nonlinear=False), beta) for seed, beta in ((3, 1.5), (4, -0.5))]
    if family in CAPPED:
        with pytest.raises(ValueError, match="does more to its last hidden state than one linear map"):
            heads_as_lora(policy, heads)
        return
    ids = torch.tensor(PROMPTS[1:2])
    expected = policy(ids).logits[:, -1] + sum(beta * head.next_token_rewards(ids) for head, beta in heads)
    heads_as_lora(policy, heads).save_pretrained(tmp_path)
    adapted = PeftModel.from_pretrained(policy, tmp_path)
    assert_close(adapted(ids).logits[:, -1].log_softmax(-1), expected.log_softmax(-1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapted_policy_generates_what_steering_does(tmp_path, tied):
    policy = tiny_policy(tie_word_embeddings=tied)
    head = tiny_steering_head(policy, nonlinear=False)
    ids, mask = left_padded(PROMPTS)
    settings = {"attention_mask": mask, "max_new_tokens": 10, "do_sample": False}
    with steering(policy, [(head, 2.0)], top_k=0) as processor:
        expected = policy.generate(ids, logits_processor=[processor], **settings)
    heads_as_lora(policy, [(head, 2.0)]).save_pretrained(tmp_path)
    adapted = PeftModel.from_pretrained(policy, tmp_path)
    assert torch.equal(adapted.generate(ids, **settings), expected)


def test_the_files_hold_the_rank_the_dtype_and_no_path(tmp_path):
    tiny_policy().to(torch.bfloat16).save_pretrained(tmp_path / "policy")
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype="auto")
    heads = [(tiny_steering_head(policy, seed, nonlinear=False), 1.0) for seed in (3, 4)]
    heads_as_lora(policy, heads).save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "policy"
    assert config["r"] == config["lora_alpha"] == 8
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert sorted(min(weight.shape) for weight in weights.values()) == [8, 8]


def test_the_policy_stays_as_it_was(policy):
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    trained = [parameter.requires_grad for parameter in policy.parameters()]
    heads_as_lora(policy, [(tiny_steering_head(policy, nonlinear=False), 2.0)])
    assert {name: value.tolist() for name, value in policy.state_dict().items()} == {
        name: value.tolist() for name, value in before.items()
    }
    assert trained == [parameter.requires_grad for parameter in policy.parameters()]
    assert not policy.get_output_embeddings()._forward_hooks


def test_a_nonlinear_head_is_refused(policy):
    with pytest.raises(ValueError, match="nonlinear=True"):
        heads_as_lora(policy, [(tiny_steering_head(policy), 1.0)])
