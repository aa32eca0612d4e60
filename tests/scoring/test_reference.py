"""The reference is the definition: the reward with a candidate minus the reward without it."""

import torch
from torch.testing import assert_close

from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.scoring.reference import ReferenceScorer
from tests.scoring.generations import generation
from tests.tiny_models import tiny_next_token_model, tiny_reward_model


@torch.no_grad()
def test_increments_are_differences_of_whole_sequences():
    for model in (tiny_reward_model(), tiny_next_token_model()):
        scorer = ReferenceScorer(model)
        for prefixes, candidates in generation(steps=3):
            found = scorer.score(prefixes, candidates)
            for row, (ids, mask) in enumerate(zip(prefixes.input_ids, prefixes.attention_mask.bool(), strict=True)):
                for column, candidate in enumerate(candidates[row]):
                    rewards = prefix_rewards(model, torch.cat([ids[mask], candidate[None]])[None])[0]
                    assert_close(found[row, column], rewards[-1] - rewards[-2], atol=1e-4, rtol=1e-4)


def test_it_costs_whole_sequences():
    scorer = ReferenceScorer(tiny_reward_model())
    prefixes, candidates = next(generation())
    scorer.score(prefixes, candidates)
    lengths = prefixes.attention_mask.sum(-1)
    assert scorer.tokens_computed == int((lengths + candidates.shape[1] * (lengths + 1)).sum())
