"""The laws of reward-guided decoding, for next-token reward models and for steering heads on the policy."""

import itertools
from contextlib import contextmanager

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf import RewardGuidedLogitsProcessor, prefix_rewards, steering
from tests.decoding.law_checks import assert_beam_scores_telescope, assert_frequencies_match
from tests.decoding.test_laws import MODES, PROMPTS, generate
from tests.tiny_models import EOS, PAD, tiny_next_token_model, tiny_policy, tiny_steering_head

WAYS = ("own_backbone", "steering_head")


@contextmanager
def guidance(way, policy, beta, top_k):
    """The processor, and the model whose whole-sequence rewards say what is right."""
    if way == "own_backbone":
        model = tiny_next_token_model(vocab_size=policy.config.vocab_size)
        yield RewardGuidedLogitsProcessor(model, beta=beta, top_k=top_k), model
    else:
        head = tiny_steering_head(policy)
        with steering(policy, [(head, beta)], top_k=top_k) as processor:
            yield processor, head


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", WAYS)
def test_zero_beta_over_the_whole_vocabulary_equals_plain_generate(policy, way, mode):
    with guidance(way, policy, 0.0, 0) as (processor, _):
        guided = generate(policy, logits_processor=[processor], **MODES[mode])
    assert torch.equal(guided, generate(policy, **MODES[mode]))


@pytest.mark.parametrize("way", WAYS)
def test_zero_beta_equals_top_k_of_generate(policy, way):
    with guidance(way, policy, 0.0, 5) as (processor, _):
        guided = generate(policy, logits_processor=[processor], **MODES["sample"])
    assert torch.equal(guided, generate(policy, **MODES["sample"] | {"top_k": 5}))


@pytest.mark.parametrize("way", WAYS)
def test_a_very_large_beta_picks_the_candidate_of_highest_reward(policy, way):
    ids = torch.tensor([PROMPTS[1]])
    with guidance(way, policy, 1e6, 6) as (processor, model):
        for _ in range(6):
            candidates = policy(ids).logits[0, -1].topk(6).indices
            continued = torch.cat([ids.expand(6, -1), candidates[:, None]], dim=1)
            best = candidates[prefix_rewards(model, continued)[:, -1].argmax()]
            processor.reset() if hasattr(processor, "reset") else None
            ids = policy.generate(ids, logits_processor=[processor], max_new_tokens=1, do_sample=False)
            assert ids[0, -1] == best


@pytest.mark.parametrize("mode", ["greedy", "sample"])
@pytest.mark.parametrize("way", WAYS)
def test_a_constant_added_to_the_reward_changes_nothing(way, mode):
    # r(x) is 0 by construction. What can be added is the same for all next tokens, at one prefix or at each.
    policy, outputs = tiny_policy(vocab_size=24), []
    for shift in (0.0, 7.0):
        with guidance(way, policy, 2.0, 5) as (processor, model):
            add_to_all_tokens(model, shift)
            outputs.append(generate(policy, logits_processor=[processor], **MODES[mode]))
    assert torch.equal(*outputs)


@torch.no_grad()
def add_to_all_tokens(model, shift):
    """Uses one of the head's dimensions for what all tokens get alike."""
    embeddings, last = model.token_embeddings, model.score.query[-1]
    embeddings[PAD] = embeddings[PAD + 1 :].mean(0)  # the pad token has none, which no head could lift
    model.score.key.weight[3] = torch.linalg.lstsq(embeddings, torch.ones(len(embeddings), 1)).solution[:, 0]
    last.weight[3], model.score.bias[3] = 0.0, shift
    assert_close(model.score.key(embeddings)[:, 3], torch.ones(len(embeddings)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("row", range(len(PROMPTS)))
@pytest.mark.parametrize("way", WAYS)
def test_a_row_decodes_to_the_same_tokens_alone_and_in_a_padded_batch(policy, way, row):
    def guided(rows):
        with guidance(way, policy, 2.0, 6) as (processor, _):
            output = generate(policy, rows, logits_processor=[processor], do_sample=False, max_new_tokens=20)
        return output[:, max(map(len, rows)) :].tolist()

    def response(tokens):
        return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens

    assert response(guided(PROMPTS)[row]) == response(guided([PROMPTS[row]])[0])


@pytest.mark.parametrize("way", WAYS)
def test_sampled_frequencies_match_the_law(way):
    policy = tiny_policy(vocab_size=8)
    beta, prompt, draws = 0.7, torch.tensor([[5, 6, 7]]), 4000
    torch.manual_seed(0)
    with guidance(way, policy, beta, None) as (processor, model):
        samples = policy.generate(
            prompt, logits_processor=[processor], do_sample=True, top_k=0, max_new_tokens=2, num_return_sequences=draws
        )[:, 3:]

    def law(prefix):
        continued = torch.cat([prefix.expand(8, -1), torch.arange(8)[:, None]], dim=1)
        return torch.softmax(policy(prefix).logits[0, -1] + beta * prefix_rewards(model, continued)[:, -1], -1)

    expected = torch.zeros(8, 8)
    with torch.no_grad():
        for first, chance in enumerate(law(prompt)):
            after = law(torch.cat([prompt, torch.tensor([[first]])], 1)) if first != EOS else torch.eye(8)[PAD]
            expected[first] = chance * after
    assert_frequencies_match(samples, expected)


@pytest.mark.parametrize("way", WAYS)
def test_beam_scores_telescope_to_log_probability_plus_beta_times_reward(policy, way):
    with guidance(way, policy, 1.5, 8) as (processor, model):
        assert_beam_scores_telescope(policy, model, processor, PROMPTS[1], beta=1.5)


@pytest.mark.parametrize("modes", itertools.permutations(["greedy", "sample", "beams"]))
@pytest.mark.parametrize("way", WAYS)
def test_one_processor_for_several_calls_gives_what_fresh_ones_give(policy, way, modes):
    batches = [PROMPTS, PROMPTS[:1], PROMPTS[1:]]
    with guidance(way, policy, 2.0, 6) as (used, _):
        for mode, rows in zip(modes, batches, strict=True):
            repeated = generate(policy, rows, logits_processor=[used], **MODES[mode])
            with guidance(way, policy, 2.0, 6) as (fresh, _):
                assert torch.equal(repeated, generate(policy, rows, logits_processor=[fresh], **MODES[mode]))


def test_a_steering_head_steers_as_it_does_with_the_decoder_run_again(policy):
    head = tiny_steering_head(policy)
    for mode in MODES.values():
        again = generate(policy, logits_processor=[RewardGuidedLogitsProcessor(head, beta=2.0, top_k=6)], **mode)
        with steering(policy, [(head, 2.0)], top_k=6) as processor:
            assert torch.equal(generate(policy, logits_processor=[processor], **mode), again)
