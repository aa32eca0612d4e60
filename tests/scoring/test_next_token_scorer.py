"""All candidates from one token: the increments are those of whole sequences, and the cost is one token per step."""

import pytest
import torch

from rgtg_hf.scoring.choose import choose_scorer
from rgtg_hf.scoring.next_token_scorer import NextTokenScorer
from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.scorer import PrefixBatch
from tests.scoring.generations import assert_equal_scores
from tests.tiny_models import (
    FAMILIES,
    VOCAB_SIZE,
    tiny_next_token_model,
    tiny_policy,
    tiny_reward_model,
    tiny_steering_head,
)
from tests.versions import since


@pytest.mark.parametrize("family", FAMILIES)
def test_increments_of_one_call_equal_those_of_whole_sequences(family):
    model = tiny_next_token_model(family)
    scorer = choose_scorer(model)
    assert isinstance(scorer, NextTokenScorer)
    assert_equal_scores(scorer, ReferenceScorer(model))


@pytest.mark.parametrize("family", [family for family in FAMILIES if FAMILIES[family][3] == "siblings"])
def test_steps_as_cuda_graphs_give_the_same(family):
    model = tiny_next_token_model(family)
    assert_equal_scores(choose_scorer(model, use_cuda_graph=True), ReferenceScorer(model))


def test_a_steering_head_can_be_scored_by_running_its_policy_again():
    head = tiny_steering_head(tiny_policy())
    assert_equal_scores(choose_scorer(head), ReferenceScorer(head))


@pytest.mark.parametrize("k", [3, VOCAB_SIZE])
def test_a_step_costs_one_token_however_many_candidates(k):
    scorer = NextTokenScorer(tiny_next_token_model())
    ids = torch.randint(VOCAB_SIZE, (2, 12), generator=torch.Generator().manual_seed(0))
    for length in range(6, 12):
        before = scorer.tokens_computed
        prefixes = PrefixBatch(ids[:, :length], torch.ones_like(ids[:, :length]), 6)
        scorer.score(prefixes, torch.arange(k).expand(2, -1))
        assert scorer.tokens_computed - before == (2 if length > 6 else 2 * 6)


def test_another_kind_of_reward_model_is_refused():
    with pytest.raises(TypeError, match="auto"):
        NextTokenScorer(tiny_reward_model())


@pytest.mark.parametrize("k", [4, VOCAB_SIZE])
@since("2.9", "bfloat16 hidden states depend on how many rows are read", package="torch")
def test_a_head_in_bfloat16_gives_float32_increments(k):
    # Every product is that of float32 numbers: the model's weights are rounded, but nothing that is made of them.
    rounded = tiny_next_token_model().to(torch.bfloat16)
    prefixes = PrefixBatch(torch.tensor([[5, 6, 7]]), torch.ones(1, 3, dtype=torch.long), 3)
    candidates = torch.arange(k)[None]
    hidden = rounded.hidden_states(prefixes.input_ids)[:, -1]
    queries = rounded.score._queries(hidden).float()
    keys = rounded.token_embeddings.float() @ rounded.score.key.weight.float().T
    expected = (queries @ keys.T)[:, :k]
    for scorer in (NextTokenScorer(rounded), ReferenceScorer(rounded)):
        torch.testing.assert_close(scorer.score(prefixes, candidates), expected, atol=2e-2, rtol=0)
    found = NextTokenScorer(rounded).score(prefixes, candidates)
    torch.testing.assert_close(found, rounded.next_token_rewards(prefixes.input_ids)[:, :k])
