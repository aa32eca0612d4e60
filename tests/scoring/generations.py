"""Generations as a scorer would see them, simulated."""

import torch
from torch.testing import assert_close

from rgtg_hf.scoring.scorer import PrefixBatch
from tests.tiny_models import VOCAB_SIZE, left_padded

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [20, 21, 22, 23]]


def generation(seed=0, steps=12, prompts=PROMPTS, vocab_size=VOCAB_SIZE, choose=False):
    """A small generation of random tokens: rows grow, beams move, drafts are dropped, a step is skipped."""
    for prefixes, candidates, _ in partly_wanted(seed, steps, prompts, vocab_size, share=1.0, choose=choose):
        yield prefixes, candidates


def partly_wanted(seed=0, steps=12, prompts=PROMPTS, vocab_size=VOCAB_SIZE, share=0.5, choose=False):
    """The same, with random candidates wanted, and whole rows left out for several steps.

    Some steps have no wanted candidate at all; the last one wants everything, so that all rows must catch up. With
    `choose`, a row goes on with one of its candidates, wanted or not.
    """
    generator = torch.Generator().manual_seed(seed)
    ids, mask = left_padded(prompts)
    prompt_length = ids.shape[1]
    for step in range(steps):
        if step == 4:
            order = torch.tensor([1, 1, 0])
            ids, mask = ids[order], mask[order]
        if step == 6:
            ids, mask = ids[:, :-2], mask[:, :-2]
        if step == 9:
            ids, mask = ids[:2], mask[:2]
        candidates = torch.randint(vocab_size, (len(ids), 4), generator=generator)
        wanted = torch.ones_like(candidates, dtype=torch.bool)
        if share < 1 and step < steps - 1:
            wanted = torch.rand(candidates.shape, generator=generator) < share
            wanted &= torch.rand(len(ids), 1, generator=generator) < share
        yield PrefixBatch(ids, mask, prompt_length), candidates, wanted
        new = 2 if step == 7 else 1
        tokens = torch.randint(vocab_size, (len(ids), new), generator=generator)
        if choose:
            tokens[:, :1] = candidates.gather(1, tokens[:, :1] % candidates.shape[1])
        ids = torch.cat([ids, tokens], dim=1)
        mask = torch.cat([mask, torch.ones_like(ids[:, -new:])], dim=1)


def assert_equal_scores(scorer, reference, steps=None, tolerance=1e-4):
    """Compares increments, step by step; a step is prefixes, candidates and perhaps those that are wanted."""
    for step in generation() if steps is None else steps:
        found, expected = scorer.score(*step), reference.score(*step)
        assert found.dtype == expected.dtype == torch.float32
        assert found.shape == step[1].shape
        assert_close(found, expected, atol=tolerance, rtol=tolerance)
