"""Rotary embeddings in plain torch."""

import torch


def rotary_embedding(positions, query, key, head_size, cos_sin_cache, is_neox):
    """Turns queries and keys in place."""
    cos, sin = cos_sin_cache[positions].to(query.dtype)[:, None].chunk(2, dim=-1)
    for one in (query, key):
        turned = one.view(len(one), -1, head_size)[..., : 2 * cos.shape[-1]]
        first, second = turned.chunk(2, dim=-1) if is_neox else (turned[..., ::2], turned[..., 1::2])
        ends = (first * cos - second * sin, second * cos + first * sin)
        turned.copy_(torch.cat(ends, dim=-1) if is_neox else torch.stack(ends, dim=-1).flatten(-2))
