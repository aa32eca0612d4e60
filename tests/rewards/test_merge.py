"""A policy with merged heads is the steered policy."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from rgtg_hf import merge_heads, steering
from tests.families import EVERY, tiny_language_model
from tests.tiny_models import _GEMMA_LIKE, left_padded, tiny_policy, tiny_steering_head

# transformers 5.5 calls its own functions by a name that it is about to retire.
pytestmark = pytest.mark.filterwarnings("ignore:`input_embeds` is deprecated:FutureWarning")
# Whose logits are no constant times a linear map.
CAPPED = {
    *("beam", "gemma2", "gemma3n_text", "inkling2_loop_text", "inkling2_text", "nanochat", "recurrent_gemma"),
    "vaultgemma",
}
# Whose layers share weights.
TIED = {"zamba", "zamba2"}
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [20, 21, 22, 23]]


@pytest.mark.parametrize("tied", [True, False])
def test_merged_logits_equal_steered_ones_over_the_whole_vocabulary(tmp_path, tied):
    policy = tiny_policy(tie_word_embeddings=tied)
    heads = [(tiny_steering_head(policy, seed, nonlinear=False), beta) for seed, beta in ((3, 1.5), (4, -0.5))]
    merge_heads(policy, heads).save_pretrained(tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not merged.config.tie_word_embeddings  # other engines go by the configuration
    ids = torch.tensor(PROMPTS[1:2])
    expected = policy(ids).logits[:, -1] + sum(beta * head.next_token_rewards(ids) for head, beta in heads)
    assert_close(merged(ids).logits[:, -1], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", sorted(set(EVERY) - TIED))
def test_a_merged_policy_of_any_family_is_the_steered_one_or_is_refused_in_a_sentence(tmp_path, family):
    policy = tiny_language_model(family)
    head = tiny_steering_head(policy, nonlinear=False)
    ids = torch.tensor(PROMPTS[1:2])
    expected = policy(ids).logits[:, -1] + 1.5 * head.next_token_rewards(ids)
    if family in CAPPED:
        with pytest.raises(ValueError, match="does more to its last hidden state than one linear map"):
            merge_heads(policy, [(head, 1.5)])
        return
    merge_heads(policy, [(head, 1.5)]).save_pretrained(tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert_close(merged(ids).logits[:, -1].log_softmax(-1), expected.log_softmax(-1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", sorted(TIED))
def test_a_policy_that_would_lose_other_ties_is_refused(family):
    policy = tiny_language_model(family)
    with pytest.raises(ValueError, match="ties layers by the switch that ties its embeddings"):
        merge_heads(policy, [(tiny_steering_head(policy, nonlinear=False), 1.5)])


def test_a_merged_policy_generates_what_steering_does(policy):
    head = tiny_steering_head(policy, nonlinear=False)
    ids, mask = left_padded(PROMPTS)
    merged = merge_heads(policy, [(head, 2.0)])
    settings = {"attention_mask": mask, "max_new_tokens": 10, "do_sample": False}
    with steering(policy, [(head, 2.0)], top_k=0) as processor:
        assert torch.equal(
            merged.generate(ids, **settings), policy.generate(ids, logits_processor=[processor], **settings)
        )


def test_merging_leaves_the_policy_as_it_was():
    policy = tiny_policy(tie_word_embeddings=True)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    merge_heads(policy, [(tiny_steering_head(policy, nonlinear=False), 2.0)])
    assert all(torch.equal(before[name], value) for name, value in policy.state_dict().items())
    assert policy.config.tie_word_embeddings
    assert policy.get_output_embeddings().weight is policy.get_input_embeddings().weight


def test_a_nonlinear_head_is_refused(policy):
    with pytest.raises(ValueError, match="nonlinear=True"):
        merge_heads(policy, [(tiny_steering_head(policy), 1.0)])


def test_a_policy_that_caps_its_logits_is_refused():
    torch.manual_seed(1)
    policy = Gemma2ForCausalLM(Gemma2Config(**_GEMMA_LIKE, final_logit_softcapping=2.0)).eval()
    with pytest.raises(ValueError, match="steering"):
        merge_heads(policy, [(tiny_steering_head(policy, nonlinear=False), 1.0)])
