"""All candidates from one token: the rewards are those of whole sequences, and the cost is one token per step."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.scoring.choose import choose_scorer
from rgtg_hf.scoring.next_token import NextTokenScorer
from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.scorer import PrefixBatch
from tests.scoring.test_scorers import generation
from tests.tiny_models import (
    FAMILIES,
    VOCAB_SIZE,
    tiny_next_token_model,
    tiny_policy,
    tiny_reward_model,
    tiny_steering_head,
)


def assert_equals_reference(model):
    scorer, reference = choose_scorer(model), ReferenceScorer(model)
    assert isinstance(scorer, NextTokenScorer)
    for prefixes, candidates in generation():
        found, expected = (each.score(prefixes, candidates) for each in (scorer, reference))
        assert_close(
            found.candidates - found.base[:, None],
            expected.candidates - expected.base[:, None],
            atol=1e-4,
            rtol=1e-4,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_rewards_of_one_call_equal_those_of_whole_sequences(family):
    assert_equals_reference(tiny_next_token_model(family))


def test_a_steering_head_can_be_scored_by_running_its_policy_again():
    assert_equals_reference(tiny_steering_head(tiny_policy()))


@pytest.mark.parametrize("k", [3, VOCAB_SIZE])
def test_a_step_costs_one_token_however_many_candidates(k):
    scorer = NextTokenScorer(tiny_next_token_model())
    ids = torch.randint(VOCAB_SIZE, (2, 12), generator=torch.Generator().manual_seed(0))
    for length in range(6, 12):
        before = scorer.tokens_computed
        prefixes = PrefixBatch(ids[:, :length], torch.ones_like(ids[:, :length]), 6, length)
        scorer.score(prefixes, torch.arange(k).expand(2, -1))
        assert scorer.tokens_computed - before == (2 if length > 6 else 2 * 6)


def test_another_kind_of_reward_model_is_refused():
    with pytest.raises(TypeError, match="auto"):
        NextTokenScorer(tiny_reward_model())


@pytest.mark.parametrize("name", ["tree", "expand"])
def test_scorers_that_read_candidates_are_refused(name):
    with pytest.raises(ValueError, match="next_token"):
        choose_scorer(tiny_next_token_model(), name)
