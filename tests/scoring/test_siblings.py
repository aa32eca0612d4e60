"""Candidates read as siblings have the increments of whole sequences, and cost themselves and one token."""

import pytest
import torch

from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.scorer import PrefixBatch
from rgtg_hf.scoring.siblings import SiblingScorer
from tests.scoring.generations import assert_equal_scores
from tests.tiny_models import PAD, VOCAB_SIZE, tiny_reward_model

ROWS, K, PROMPT = 3, 4, 20


def steps(seed, steps=12, wanted_share=1.0):
    """A sampled generation of a left-padded batch, with candidates of which only some are wanted."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB_SIZE, (ROWS, PROMPT), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :18] = 0
    ids[mask == 0] = PAD
    for _ in range(steps):
        scores = torch.rand(ROWS, VOCAB_SIZE - 3, generator=generator)
        candidates = scores.topk(K).indices + 3
        wanted = torch.rand(ROWS, K, generator=generator) < wanted_share
        wanted &= torch.rand(ROWS, 1, generator=generator) < wanted_share
        yield PrefixBatch(ids, mask, PROMPT), candidates, wanted
        choice = torch.randint(K, (ROWS, 1), generator=generator)
        ids = torch.cat([ids, candidates.gather(1, choice)], dim=1)
        mask = torch.cat([mask, torch.ones_like(choice)], dim=1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma3"])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.3])
def test_increments_that_are_wanted_are_those_of_whole_sequences(family, share):
    reward_model = tiny_reward_model(family)
    assert_equal_scores(SiblingScorer(reward_model), ReferenceScorer(reward_model), steps(seed=0, wanted_share=share))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_siblings_are_right_under_both_attentions(attention):
    reward_model = tiny_reward_model()
    reward_model.set_attn_implementation(attention)
    assert_equal_scores(SiblingScorer(reward_model), ReferenceScorer(reward_model))


def test_long_prompts_equal_reference():
    reward_model = tiny_reward_model()
    ids = torch.randint(VOCAB_SIZE, (2, 60), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :23] = 0
    step = PrefixBatch(ids, mask, 60), torch.arange(8).reshape(2, 4)
    assert_equal_scores(SiblingScorer(reward_model), ReferenceScorer(reward_model), [step])


def test_a_step_costs_its_candidates_and_the_token_before_them():
    scorer = SiblingScorer(tiny_reward_model())
    counts = []
    for step in steps(seed=1):
        before = scorer.tokens_computed
        scorer.score(*step)
        counts.append(scorer.tokens_computed - before)
    assert counts[1:] == [ROWS * (1 + K)] * len(counts[1:])


def test_equal_prompts_are_read_once():
    scorer = SiblingScorer(tiny_reward_model())
    ids = torch.randint(3, VOCAB_SIZE, (1, 40), generator=torch.Generator().manual_seed(0)).expand(5, -1)
    scorer.score(PrefixBatch(ids, torch.ones_like(ids), 40), ids[:, :K])
    assert scorer.tokens_computed == 39 + 5 * (1 + K)


def test_tokens_read_in_inference_mode_serve_outside_of_it():
    reward_model = tiny_reward_model()
    scorer, reference = SiblingScorer(reward_model), ReferenceScorer(reward_model)
    first, second = list(steps(seed=4, steps=2))
    with torch.inference_mode():
        scorer.score(*first)
    assert_equal_scores(scorer, reference, [second])
