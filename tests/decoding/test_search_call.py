"""A search is made ready with the candidates of its proposal, the user's guides, and the reward model's prompts."""

import pytest
import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor, reward_guided_generate
from rgtg_hf.decoding import search_call
from rgtg_hf.decoding.proposal import CandidateFilter
from tests.tiny_models import EOS, PAD, tiny_next_token_model, tiny_steering_head

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


@pytest.fixture
def made_ready(policy, monkeypatch):
    """Calls the callable and returns what reaches the search itself, which does not run."""
    handed = {}

    def keep(model, input_ids, scorer, config, **rest):
        handed.update(rest, model=model, scorer=scorer, config=config)

    monkeypatch.setattr(search_call, "search", keep)

    def call(reward_model, logits_processor=(), **arguments):
        given = {"search": "best"} | arguments
        if "guidance_config" in arguments:
            del given["search"]
        processors, criteria = LogitsProcessorList(logits_processor), StoppingCriteriaList()
        settings = policy.generation_config
        reward_guided_generate(policy, IDS, processors, criteria, settings, reward_model=reward_model, **given)
        return handed

    return call


def test_rows_are_sampled_from_the_policys_candidates(made_ready, reward_model):
    handed = made_ready(reward_model, top_k=3)
    (only,) = handed["logits_processor"]
    assert isinstance(only, CandidateFilter)
    assert only.config.top_k == 3
    assert not handed["guides"]


def test_a_guide_that_the_user_gave_takes_the_place_of_the_filter(made_ready, reward_model):
    guide = RewardGuidedLogitsProcessor(tiny_next_token_model(), beta=0.5)
    handed = made_ready(reward_model, [guide])
    assert list(handed["logits_processor"]) == handed["guides"] == [guide]


def test_arguments_win_over_the_object(made_ready, reward_model):
    given = RewardGuidanceConfig(search="halve", num_rows=6, beta=3.0)
    config = made_ready(reward_model, num_rows=5, guidance_config=given)["config"]
    assert (config.search, config.num_rows, config.beta) == ("halve", 5, 3.0)


def test_the_reward_models_own_prompts_lose_their_padding_and_nothing_else(made_ready, reward_model):
    own = {
        "input_ids": torch.tensor([[PAD, 5, EOS], [6, PAD, 7]]),
        "attention_mask": torch.tensor([[0, 1, 1]] * 1 + [[1, 1, 1]]),
    }
    assert made_ready(reward_model, reward_prompts=own)["own_prompts"] == [[5, EOS], [6, PAD, 7]]
    assert made_ready(reward_model)["own_prompts"] is None


def test_a_steering_head_reads_the_policy_that_is_searched(made_ready, policy):
    head = tiny_steering_head(policy)
    scorer = made_ready(head)["scorer"]
    prompts, responses = [[5, 6]], [[7]]
    expected = head.next_token_rewards(torch.tensor([[5, 6]]), torch.ones(1, 2))[0, 7]
    (before,), (after,) = scorer.rewards(prompts, [[]]), scorer.rewards(prompts, responses)
    assert after - before == pytest.approx(float(expected), abs=1e-4)
