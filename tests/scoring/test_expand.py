"""A row per candidate is right for every family, and reads what is new."""

import pytest
import torch

from rgtg_hf.scoring.expand import ExpandScorer
from rgtg_hf.scoring.reference import ReferenceScorer
from tests.scoring.generations import assert_equal_scores, generation
from tests.tiny_models import FAMILIES, tiny_reward_model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_per_candidate_is_right_for_every_family(family):
    reward_model = tiny_reward_model(family)
    assert_equal_scores(ExpandScorer(reward_model), ReferenceScorer(reward_model))


def test_a_step_reads_only_what_is_new():
    scorer = ExpandScorer(tiny_reward_model())
    steps = list(generation(steps=2))
    scorer.score(*steps[0])
    before = scorer.tokens_computed
    scorer.score(*steps[1])
    rows, k = steps[1][1].shape
    assert scorer.tokens_computed - before == rows * (1 + k)


def test_only_wanted_candidates_are_read():
    scorer = ExpandScorer(tiny_reward_model())
    wanted = torch.tensor([[True, False, True, False], [False] * 4, [False, True, True, True]])
    (first, second) = generation(steps=2)
    scorer.score(*first)
    before = scorer.tokens_computed
    scorer.score(*second, wanted)
    assert scorer.tokens_computed - before == 3 + 5
