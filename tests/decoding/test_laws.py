"""The laws of reward-guided decoding that the design states, on tiny models."""

import itertools

import pytest
import torch
from transformers import LogitsProcessor

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from tests.decoding.law_checks import assert_beam_scores_telescope, assert_frequencies_match
from tests.tiny_models import EOS, PAD, left_padded, tiny_policy, tiny_reward_model

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [20, 21, 22, 23]]
MODES = {
    "greedy": {"do_sample": False},
    "sample": {"do_sample": True, "top_k": 0},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beam_sample": {"num_beams": 3, "do_sample": True, "top_k": 0},
}


def generate(policy, rows=PROMPTS, seed=0, max_new_tokens=8, **settings):
    ids, mask = left_padded(rows)
    torch.manual_seed(seed)
    return policy.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, **settings)


@pytest.mark.parametrize("mode", MODES)
def test_zero_beta_over_the_whole_vocabulary_equals_plain_generate(policy, reward_model, mode):
    processor = RewardGuidedLogitsProcessor(reward_model, beta=0.0, top_k=0)
    guided = generate(policy, logits_processor=[processor], **MODES[mode])
    assert torch.equal(guided, generate(policy, **MODES[mode]))


@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_zero_beta_equals_top_k_of_generate(policy, reward_model, mode):
    processor = RewardGuidedLogitsProcessor(reward_model, beta=0.0, top_k=5)
    guided = generate(policy, logits_processor=[processor], **MODES[mode])
    assert torch.equal(guided, generate(policy, **MODES[mode] | {"top_k": 5}))


def test_zero_beta_keeps_ties_as_top_k_of_generate_does(reward_model):
    processor = RewardGuidedLogitsProcessor(reward_model, beta=0.0, top_k=2)
    scores = torch.zeros(1, 40)
    scores[0, [3, 4, 5]] = torch.tensor([2.0, 1.0, 1.0])
    assert (processor(torch.tensor([[7, 8]]), scores) > float("-inf")).nonzero()[:, 1].tolist() == [3, 4, 5]


def test_a_very_large_beta_picks_the_candidate_of_highest_reward(policy, reward_model):
    processor = RewardGuidedLogitsProcessor(reward_model, beta=1e6, top_k=6)
    ids = torch.tensor([PROMPTS[1]])
    for _ in range(6):
        candidates = policy(ids).logits[0, -1].topk(6).indices
        continued = torch.cat([ids.expand(6, -1), candidates[:, None]], dim=1)
        best = candidates[prefix_rewards(reward_model, continued)[:, -1].argmax()]
        guided = policy.generate(ids, logits_processor=[processor], max_new_tokens=1, do_sample=False)
        assert guided[0, -1] == best
        ids = guided


@pytest.mark.parametrize("mode", MODES)
def test_a_constant_added_to_the_reward_changes_nothing(policy, mode):
    shifted = tiny_reward_model()
    weight = shifted.score.weight
    shifted.score = torch.nn.Linear(weight.shape[1], 1)
    shifted.score.weight = weight
    torch.nn.init.constant_(shifted.score.bias, 7.0)
    outputs = [
        generate(policy, logits_processor=[RewardGuidedLogitsProcessor(model, beta=2.0, top_k=5)], **MODES[mode])
        for model in (tiny_reward_model(), shifted)
    ]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("row", range(len(PROMPTS)))
@pytest.mark.parametrize("scorer", ["siblings", "expand"])  # by name: the probe would not choose one that is wrong
def test_a_row_decodes_to_the_same_tokens_alone_and_in_a_padded_batch(policy, reward_model, scorer, row):
    def guided(rows):
        # Strong steering, so that a small mistake in a reward shows in the tokens.
        config = RewardGuidanceConfig(beta=50.0, top_k=20, scorer=scorer)
        processor = RewardGuidedLogitsProcessor(reward_model, guidance_config=config)
        output = generate(policy, rows, logits_processor=[processor], do_sample=False, max_new_tokens=30)
        return output[:, max(map(len, rows)) :].tolist()

    def response(tokens):
        return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens

    assert response(guided(PROMPTS)[row]) == response(guided([PROMPTS[row]])[0])


def test_sampled_frequencies_match_the_law():
    policy, reward_model = tiny_policy(vocab_size=8), tiny_reward_model(vocab_size=8)
    beta, prompt, draws = 0.7, torch.tensor([[5, 6, 7]]), 4000
    processor = RewardGuidedLogitsProcessor(reward_model, beta=beta, top_k=0)
    torch.manual_seed(0)
    samples = policy.generate(
        prompt, logits_processor=[processor], do_sample=True, top_k=0, max_new_tokens=2, num_return_sequences=draws
    )[:, 3:]

    def law(prefix):
        continued = torch.cat([prefix.expand(8, -1), torch.arange(8)[:, None]], dim=1)
        return torch.softmax(policy(prefix).logits[0, -1] + beta * prefix_rewards(reward_model, continued)[:, -1], -1)

    expected = torch.zeros(8, 8)
    with torch.no_grad():
        for first, chance in enumerate(law(prompt)):
            expected[first] = chance * (
                law(torch.cat([prompt, torch.tensor([[first]])], 1))
                if first != EOS
                else torch.eye(8)[PAD]  # a finished response is padded
            )
    assert_frequencies_match(samples, expected)


def test_beam_scores_telescope_to_log_probability_plus_beta_times_reward(policy, reward_model):
    processor = RewardGuidedLogitsProcessor(reward_model, beta=1.5, top_k=8)
    assert_beam_scores_telescope(policy, reward_model, processor, PROMPTS[1], beta=1.5)


@pytest.mark.parametrize("modes", itertools.permutations(["greedy", "sample", "beams"]))
@pytest.mark.parametrize("scorer", ["siblings", "expand"])
def test_one_processor_for_several_calls_gives_what_fresh_ones_give(policy, reward_model, scorer, modes):
    def new():
        config = RewardGuidanceConfig(beta=2.0, top_k=6, scorer=scorer)
        return RewardGuidedLogitsProcessor(reward_model, guidance_config=config)

    used = new()
    batches = [PROMPTS, PROMPTS[:1], PROMPTS[1:]]
    for mode, rows in zip(modes, batches, strict=True):
        repeated = generate(policy, rows, logits_processor=[used], **MODES[mode])
        assert torch.equal(repeated, generate(policy, rows, logits_processor=[new()], **MODES[mode]))


def test_the_scores_given_are_not_changed(policy, reward_model):
    class Keep(LogitsProcessor):
        def __call__(self, input_ids, scores):
            self.given, self.copy = scores, scores.clone()
            return scores

    keep, processor = Keep(), RewardGuidedLogitsProcessor(reward_model, beta=2.0)
    generate(policy, logits_processor=[keep, processor], max_new_tokens=2)
    assert torch.equal(keep.given, keep.copy)
