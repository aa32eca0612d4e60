"""Steering heads by the other ways into generate(): free where that is right, and right where it is not free."""

import pytest
import torch
from transformers import LlamaForCausalLM

from rgtg_hf import RewardGuidanceConfig, RewardGuidedGenerationMixin, reward_guided_generate, steering
from rgtg_hf.decoding.hub import generate_by_name, write_custom_generate
from rgtg_hf.rewards.parts import find_backbone
from tests.decoding.test_laws import MODES, generate
from tests.tiny_models import left_padded, tiny_policy, tiny_steering_head

BETA, TOP_K = 2.0, 6


class GuidedLlama(RewardGuidedGenerationMixin, LlamaForCausalLM):
    pass


@pytest.fixture(scope="module")
def guided():
    policy = tiny_policy()
    guided = GuidedLlama(policy.config).eval()
    guided.load_state_dict(policy.state_dict())
    return guided


def calls_of_backbone(policy, run):
    """What `run` returns, and how often it ran the policy's decoder."""
    calls = []
    handle = find_backbone(policy).register_forward_hook(lambda *_: calls.append(1))
    try:
        return run(), len(calls)
    finally:
        handle.remove()


def by_mixin(policy, reward_model, **settings):
    return generate(policy, reward_model=reward_model, **settings)


def by_callable(policy, reward_model, **settings):
    return generate(policy, custom_generate=reward_guided_generate, reward_model=reward_model, **settings)


@pytest.mark.parametrize("way", [by_mixin, by_callable])
@pytest.mark.parametrize("mode", MODES)
def test_a_head_steers_by_every_way_and_costs_no_pass(policy, guided, way, mode):
    policy = guided if way is by_mixin else policy
    heads = [tiny_steering_head(policy, seed) for seed in (3, 4)]
    # In these ways `top_k` means the candidates.
    settings = {name: value for name, value in MODES[mode].items() if name != "top_k"}
    with steering(policy, [(heads[0], BETA), (heads[1], -0.5 * BETA)], top_k=TOP_K) as processor:
        expected, passes = calls_of_backbone(
            policy, lambda: generate(policy, logits_processor=[processor], **settings)
        )
    found, own_passes = calls_of_backbone(
        policy, lambda: way(policy, heads, weights=[1.0, -0.5], beta=BETA, top_k=TOP_K, **settings)
    )
    assert torch.equal(found, expected)
    assert own_passes == passes
    assert not find_backbone(policy)._forward_hooks


@pytest.mark.parametrize("settings", [{"prompt_lookup_num_tokens": 2}, {"min_entropy": 0.0}])
def test_what_is_not_free_is_still_right(guided, settings):
    """Drafted tokens and a scorer's settings run the decoder again; greedily the tokens are the same."""
    head = tiny_steering_head(guided)
    expected = by_mixin(guided, head, rows=[[5, 6, 7]], beta=BETA, top_k=TOP_K)
    if "min_entropy" in settings:
        settings = {"guidance_config": RewardGuidanceConfig(beta=BETA, top_k=TOP_K, **settings)}
    else:
        settings = settings | {"beta": BETA, "top_k": TOP_K}
    assert torch.equal(by_mixin(guided, head, rows=[[5, 6, 7]], **settings), expected)


def test_a_saved_head_steers_by_its_name(guided, tmp_path):
    head = tiny_steering_head(guided)
    head.save_pretrained(tmp_path)
    write_custom_generate(tmp_path, RewardGuidanceConfig(beta=BETA, top_k=TOP_K))
    ids, mask = left_padded([[5, 6, 7, 8], [9, 10]])
    found = generate_by_name(guided, str(tmp_path), inputs=ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    assert torch.equal(found, by_mixin(guided, head, rows=[[5, 6, 7, 8], [9, 10]], beta=BETA, top_k=TOP_K))


def test_a_wrong_number_of_weights_is_refused(guided):
    with pytest.raises(ValueError, match="`weights` goes with a list"):
        by_mixin(guided, tiny_steering_head(guided), weights=[1.0, 2.0])
