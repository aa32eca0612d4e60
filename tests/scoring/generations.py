"""Generations as a scorer would see them, simulated."""

import torch

from rgtg_hf.scoring.scorer import PrefixBatch
from tests.tiny_models import VOCAB_SIZE, left_padded

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [20, 21, 22, 23]]


def generation(seed=0, steps=12, prompts=PROMPTS, vocab_size=VOCAB_SIZE):
    """A small generation of random tokens: rows grow, beams move, drafts are dropped, a step is skipped."""
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
        base_length = ids.shape[1] - (step == 8)
        candidates = torch.randint(vocab_size, (len(ids), 4), generator=generator)
        yield PrefixBatch(ids, mask, prompt_length, base_length), candidates
        new = 2 if step == 7 else 1
        ids = torch.cat([ids, torch.randint(vocab_size, (len(ids), new), generator=generator)], dim=1)
        mask = torch.cat([mask, torch.ones_like(ids[:, -new:])], dim=1)
