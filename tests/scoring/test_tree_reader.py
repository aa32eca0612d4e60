"""A tree of texts is read once, token by token, by the rows that are wanted, and every reward is a whole text's."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.scorer import PrefixBatch
from rgtg_hf.scoring.sequences import WholeReader
from rgtg_hf.scoring.tree import TreeScorer
from rgtg_hf.scoring.tree_reader import TreeReader
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
        yield PrefixBatch(ids, mask, PROMPT, ids.shape[1], wanted), candidates
        choice = torch.randint(K, (ROWS, 1), generator=generator)
        ids = torch.cat([ids, candidates.gather(1, choice)], dim=1)
        mask = torch.cat([mask, torch.ones_like(choice)], dim=1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma3"])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.3])
def test_rewards_that_are_wanted_are_those_of_whole_sequences(family, share):
    reward_model = tiny_reward_model(family)
    scorer, reference = TreeScorer(reward_model), ReferenceScorer(reward_model)
    for prefixes, candidates in steps(seed=0, wanted_share=share):
        found, expected = scorer.score(prefixes, candidates), reference.score(prefixes, candidates)
        assert_close(found.candidates[prefixes.wanted], expected.candidates[prefixes.wanted], atol=1e-4, rtol=1e-4)
        rows = prefixes.wanted.any(-1)
        assert_close(found.base[rows], expected.base[rows], atol=1e-4, rtol=1e-4)
        assert torch.isfinite(found.candidates).all()


def test_a_step_costs_its_candidates_and_nothing_else():
    scorer = TreeScorer(tiny_reward_model())
    counts = []
    for prefixes, candidates in steps(seed=1):
        before = scorer.tokens_computed
        scorer.score(prefixes, candidates)
        counts.append(scorer.tokens_computed - before)
    assert counts[1:] == [ROWS * K] * len(counts[1:])


def test_rows_without_wanted_candidates_are_not_read():
    scorer = TreeScorer(tiny_reward_model())
    for step, (prefixes, candidates) in enumerate(steps(seed=2)):
        wanted = torch.zeros(ROWS, K, dtype=torch.bool)
        wanted[0] = True
        before = scorer.tokens_computed
        scorer.score(prefixes._replace(wanted=wanted), candidates)
        if step:
            assert scorer.tokens_computed - before == K
    held = [len(row.trunk.tokens) for row in scorer.reader.rows]
    assert held == [prefixes.input_ids.shape[1], 0, 0]


def test_equal_prompts_are_read_once():
    scorer = TreeScorer(tiny_reward_model())
    ids = torch.randint(3, VOCAB_SIZE, (1, 40), generator=torch.Generator().manual_seed(0)).expand(5, -1)
    scorer.score(PrefixBatch(ids, torch.ones_like(ids), 40, 40), ids[:, :K])
    assert scorer.tokens_computed == 40 + 5 * K


def test_what_tails_share_is_read_once():
    reward_model = tiny_reward_model()
    reader, whole = TreeReader(reward_model), WholeReader(reward_model)
    trunk, tails = [5, 6, 7], [[8, 9, 10], [8, 9], [8, 9, 10, 11], [12], [], [8, 13]]
    found = reader.read([trunk], [tails])
    assert_close(torch.tensor(found), whole.read([[trunk + tail for tail in tails]]), atol=1e-4, rtol=1e-4)
    assert reader.tokens_computed == 3 + 6
    before = reader.tokens_computed
    reader.read([[*trunk, 8, 9, 10, 14]], [[[15]]])  # goes on from what a tail has read
    assert reader.tokens_computed - before == 2


def test_slots_are_used_again():
    reward_model = tiny_reward_model()
    scorer = TreeScorer(reward_model)
    for prefixes, candidates in steps(seed=3, steps=40):
        scorer.score(prefixes, candidates)
    longest = int(prefixes.attention_mask.sum(-1).max())
    assert max(row.top for row in scorer.reader.rows) <= longest + K
    for row in scorer.reader.rows:
        used = {*row.trunk.slots, *(slot for tail in row.tails for slot in tail.slots)}
        assert sorted([*used, *row.free]) == list(range(row.top))


def test_a_batch_that_shrinks_keeps_no_memory_of_rows_that_are_gone():
    reader = TreeReader(tiny_reward_model())
    trunks = [list(range(3 + row, 23 + row)) for row in range(4)]
    reader.read(trunks, [[[5]]] * 4)
    reader.read([[*trunk, 5, 6] for trunk in trunks[:2]], [[[7]]] * 2)
    assert {len(layer.keys) for layer in reader.cache.layers} == {2}


def test_what_was_read_in_inference_mode_serves_outside_of_it():
    reward_model = tiny_reward_model()
    scorer, reference = TreeScorer(reward_model), ReferenceScorer(reward_model)
    first, second = list(steps(seed=4, steps=2))
    with torch.inference_mode():
        scorer.score(*first)
    assert_close(scorer.score(*second), reference.score(*second), atol=1e-4, rtol=1e-4)
