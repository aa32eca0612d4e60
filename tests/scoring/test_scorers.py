"""Every scorer gives the rewards of whole sequences, for every architecture that it serves."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.scoring.choose import SCORERS, choose_scorer, probe
from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.scorer import PrefixBatch
from tests.scoring.generations import generation
from tests.tiny_models import FAMILIES, VOCAB_SIZE, tiny_reward_model


def assert_scores_equal_reference(scorer, reward_model):
    reference = ReferenceScorer(reward_model)
    for prefixes, candidates in generation():
        found, expected = scorer.score(prefixes, candidates), reference.score(prefixes, candidates)
        assert_close(found.candidates, expected.candidates, atol=1e-4, rtol=1e-4)
        assert_close(found.base, expected.base, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_chosen_scorer_equals_reference(family):
    reward_model = tiny_reward_model(family)
    assert_scores_equal_reference(choose_scorer(reward_model), reward_model)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_per_candidate_is_right_for_every_family(family):
    reward_model = tiny_reward_model(family)
    assert_scores_equal_reference(SCORERS["expand"](reward_model), reward_model)


@pytest.mark.parametrize("family", FAMILIES)
def test_probe_finds_the_fastest_scorer_that_is_right(family):
    expected = FAMILIES[family][3]
    assert type(choose_scorer(tiny_reward_model(family))) is SCORERS[expected]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_siblings_are_right_under_both_attentions(attention):
    reward_model = tiny_reward_model()
    reward_model.set_attn_implementation(attention)
    assert_scores_equal_reference(SCORERS["tree"](reward_model), reward_model)


def test_a_wrong_scorer_does_not_pass_the_probe(monkeypatch):
    class OffByOne(SCORERS["tree"]):
        def score(self, prefixes, candidate_ids):
            return super().score(prefixes, candidate_ids.roll(1, dims=-1))

    monkeypatch.setitem(SCORERS, "tree", OffByOne)
    reward_model = tiny_reward_model()
    assert not probe(reward_model, "tree")
    assert type(choose_scorer(reward_model)) is SCORERS["expand"]


def test_long_prompts_equal_reference():
    reward_model = tiny_reward_model()
    ids = torch.randint(VOCAB_SIZE, (2, 60), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :23] = 0
    prefixes = PrefixBatch(ids, mask, 60, 60)
    candidates = torch.arange(8).reshape(2, 4)
    found, expected = (SCORERS[name](reward_model).score(prefixes, candidates) for name in ("tree", "reference"))
    assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["tree", "expand"])
def test_a_step_reads_only_what_is_new(name):
    scorer = SCORERS[name](tiny_reward_model())
    steps = list(generation(steps=3))
    scorer.score(*steps[0])
    before = scorer.tokens_computed
    scorer.score(*steps[1])
    rows, k = steps[1][1].shape
    assert scorer.tokens_computed - before == rows * (1 + k)


def test_an_unknown_scorer_is_refused():
    with pytest.raises(ValueError, match="choose one of"):
        choose_scorer(tiny_reward_model(), "fastest")
