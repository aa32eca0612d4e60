"""Steering heads inside generate(): they add up, leave no trace, and refuse what they cannot serve."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from rgtg_hf import steering
from rgtg_hf.rewards.parts import find_backbone
from tests.decoding.test_laws import MODES, PROMPTS, generate
from tests.tiny_models import left_padded, tiny_next_token_model, tiny_policy, tiny_steering_head


def step(policy, processor, rows=PROMPTS):
    """The policy's scores and the steered ones, after one forward pass."""
    ids, mask = left_padded(rows)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    scores = policy(ids, attention_mask=mask, position_ids=positions).logits[:, -1].detach()
    return scores, processor(ids, scores)


def test_heads_add_up(policy):
    first, second = (tiny_steering_head(policy, seed) for seed in (3, 4))
    with steering(policy, [(first, 1.5), (second, -0.5)], top_k=0) as processor:
        scores, steered = step(policy, processor)
    ids, mask = left_padded(PROMPTS)
    expected = scores + 1.5 * first.next_token_rewards(ids, mask) - 0.5 * second.next_token_rewards(ids, mask)
    assert_close(steered, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_each_row_has_its_own_beta(policy, mode):
    head, betas = tiny_steering_head(policy), torch.tensor([2.0, 0.5, -1.0])
    settings = MODES[mode] | {"do_sample": False}
    with steering(policy, [(head, betas)]) as processor:
        together = generate(policy, logits_processor=[processor], **settings)
        copies = len(together) // len(PROMPTS)
        for row, beta in enumerate(betas.tolist()):
            processor.betas = [beta]
            alone = generate(policy, logits_processor=[processor], **settings)
            rows = slice(row * copies, (row + 1) * copies)
            assert torch.equal(together[rows, : alone.shape[1]], alone[rows, : together.shape[1]])


def test_the_hook_is_gone_after_the_block_even_if_generation_fails(policy):
    def fail(input_ids, scores, **kwargs):
        assert find_backbone(policy)._forward_hooks
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), steering(policy, [(tiny_steering_head(policy), 1.0)]) as processor:
        generate(policy, logits_processor=[processor], stopping_criteria=[fail])
    assert not find_backbone(policy)._forward_hooks
    with pytest.raises(RuntimeError, match="with steering"):
        step(policy, processor)


def test_two_generations_at_the_same_time_do_not_meet(policy):
    heads = [tiny_steering_head(policy, seed) for seed in (3, 4)]
    alone, together = {}, {}

    def run(number, results):
        ids, mask = left_padded(PROMPTS)
        with steering(policy, [(heads[number], 3.0)]) as processor:
            for _ in range(3):
                results[number] = policy.generate(
                    ids, attention_mask=mask, logits_processor=[processor], do_sample=False, max_new_tokens=20
                )

    for number in (0, 1):
        run(number, alone)
    threads = [threading.Thread(target=run, args=(number, together)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torch.equal(alone[0], alone[1])
    assert all(torch.equal(alone[number], together[number]) for number in (0, 1))


@pytest.mark.parametrize(
    "settings", [{"use_cache": False}, {"cache_implementation": "static"}, {"prefill_chunk_size": 2}]
)
def test_the_kind_of_cache_does_not_matter(policy, settings):
    head, rows = tiny_steering_head(policy), PROMPTS[1:2]
    with steering(policy, [(head, 2.0)]) as processor:
        expected = generate(policy, rows, logits_processor=[processor], do_sample=False)
        found = generate(policy, rows, logits_processor=[processor], do_sample=False, **settings)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("settings", [{"prompt_lookup_num_tokens": 2}, {"assistant_model": tiny_policy(seed=7)}])
def test_drafted_tokens_are_refused_in_words(policy, settings):
    with (
        steering(policy, [(tiny_steering_head(policy), 1.0)]) as processor,
        pytest.raises(ValueError, match="assisted"),
    ):
        generate(policy, [[5, 6, 7, 5, 6, 7, 5, 6]], logits_processor=[processor], do_sample=False, **settings)


def test_another_model_is_refused(policy):
    with (
        steering(policy, [(tiny_steering_head(policy), 1.0)]) as processor,
        pytest.raises(ValueError, match="not just read"),
    ):
        generate(tiny_policy(seed=7), logits_processor=[processor])


def test_a_model_with_its_own_backbone_is_refused(policy):
    with pytest.raises(ValueError, match="backbone of its own"), steering(policy, [(tiny_next_token_model(), 1.0)]):
        pass


@pytest.mark.parametrize(
    ("heads", "settings", "words"),
    [
        (0, {}, "empty"),
        (1, {"max_step_kl": 0.0}, "max_step_kl"),
        (1, {"max_increment": float("nan")}, "max_increment"),
        (1, {"top_k": -1}, "top_k"),
    ],
)
def test_settings_out_of_range_are_refused(policy, heads, settings, words):
    pairs = [(tiny_steering_head(policy), 1.0)] * heads
    with pytest.raises(ValueError, match=words), steering(policy, pairs, **settings):
        pass


@pytest.mark.parametrize("beta", [torch.tensor([1.0, 2.0]), float("inf")])
def test_betas_that_cannot_be_used_are_refused(policy, beta):
    head = tiny_steering_head(policy)
    with pytest.raises(ValueError, match="beta"), steering(policy, [(head, beta)]) as processor:
        step(policy, processor)


def test_a_reward_that_is_not_finite_is_refused(policy):
    head = tiny_steering_head(policy)
    torch.nn.init.constant_(head.score.key.weight, float("nan"))
    with steering(policy, [(head, 1.0)]) as processor, pytest.raises(FloatingPointError, match="not finite"):
        step(policy, processor)


def test_a_copy_has_betas_of_its_own_and_is_not_pickled(policy):
    with steering(policy, [(tiny_steering_head(policy), 2.0)], max_increment=0.5) as processor:
        other = copy.deepcopy(processor)
        other.betas = [np.float32(-2)]
        assert (other.betas, processor.betas, other.config) == ([-2.0], [2.0], processor.config)
        step(policy, processor)
        with pytest.raises(TypeError, match="Call steering"):
            pickle.dumps(processor)
