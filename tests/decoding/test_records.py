"""The figures that a processor gives about a generation are those computed again from its texts."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from tests.tiny_models import EOS, left_padded

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13]]


def guided(policy, reward_model, rows, max_new_tokens=6, **settings):
    config = RewardGuidanceConfig(**{"beta": 2.0, "top_k": 5} | settings)
    processor = RewardGuidedLogitsProcessor(reward_model, guidance_config=config, collect_records=True)
    ids, mask = left_padded(rows)
    torch.manual_seed(0)
    sequences = policy.generate(
        ids, attention_mask=mask, logits_processor=[processor], do_sample=True, max_new_tokens=max_new_tokens
    )
    return sequences, processor.stats


@torch.no_grad()
def test_kl_is_that_of_the_two_distributions_over_the_candidates(policy, reward_model):
    sequences, stats = guided(policy, reward_model, PROMPTS[1:])
    expected = 0.0
    for length in range(6, sequences.shape[1]):
        scores, ids = policy(sequences[:, :length]).logits[0, -1].topk(5)
        continued = torch.cat([sequences[:, :length].expand(5, -1), ids[:, None]], dim=1)
        plain = scores.log_softmax(-1)
        steered = (scores + 2.0 * prefix_rewards(reward_model, continued)[:, -1]).log_softmax(-1)
        expected += float((steered.exp() * (steered - plain)).sum())
    assert_close(stats.kl(), torch.tensor([expected]), atol=1e-4, rtol=1e-4)


def test_increments_of_chosen_tokens_add_up_to_the_rewards_of_prefixes(policy, reward_model):
    sequences, stats = guided(policy, reward_model, PROMPTS[1:])
    rewards = prefix_rewards(reward_model, sequences)
    found = stats.increments_of(sequences)
    assert_close(found.cumsum(-1), rewards[:, 6:] - rewards[:, 5:6], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("figure", [lambda stats: stats.kl(), lambda stats: stats.increments_of(torch.ones(1, 3))])
def test_without_records_the_error_says_how_to_keep_them(reward_model, figure):
    with pytest.raises(ValueError, match="collect_records=True"):
        figure(RewardGuidedLogitsProcessor(reward_model).stats)


def test_without_steering_there_is_no_divergence_and_no_reward_work(policy, reward_model):
    _, stats = guided(policy, reward_model, PROMPTS, beta=0.0)
    assert stats.kl().tolist() == [0.0, 0.0]
    assert stats.steps == stats.steps_skipped == 6
    assert stats.reward_model_tokens == 0


def test_rows_that_have_ended_add_no_divergence(policy, reward_model):
    prompts = [[token, token + 1, token + 2] for token in range(3, 15)]
    sequences, stats = guided(policy, reward_model, prompts, max_new_tokens=20, top_k=0, beta=0.3)
    assert (sequences[:, 3:-1] == EOS).any()
    for row, tokens in enumerate(sequences[:, 3:].tolist()):
        if EOS in tokens:
            end = tokens.index(EOS)
            assert_close(stats.kl()[row], torch.stack([record.kl[row] for record in stats.records[: end + 1]]).sum())


def test_counts_start_over_with_reset(policy, reward_model):
    processor = RewardGuidedLogitsProcessor(reward_model)
    policy.generate(torch.tensor([[5, 6, 7]]), logits_processor=[processor], max_new_tokens=3, do_sample=False)
    assert processor.stats.steps == 3
    assert processor.stats.reward_model_tokens == 3 + 2 + 3 * 10  # the prompt, chosen tokens, candidates of each step
    processor.reset()
    assert (processor.stats.steps, processor.stats.reward_model_tokens) == (0, 0)


def test_records_and_counts_are_shown_on_one_short_line(policy, reward_model):
    processor = RewardGuidedLogitsProcessor(reward_model, beta=2.0, top_k=4, collect_records=True)
    policy.generate(torch.tensor([[5, 6, 7]]), logits_processor=[processor], max_new_tokens=3, min_new_tokens=3)
    counts = f"steps=3, steps_skipped=0, reward_model_tokens={processor.stats.reward_model_tokens}"
    assert repr(processor.stats) == f"GuidanceStats({counts}, records=<3>)"
    assert repr(processor.stats.records[0]) == "StepRecord(length=3, rows=1, candidates=4)"
    assert repr(processor) == "RewardGuidedLogitsProcessor(LlamaForSequenceClassification, beta=2, top_k=4)"
