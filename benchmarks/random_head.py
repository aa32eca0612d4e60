"""Heads with random weights, for benchmarks that measure time."""

from __future__ import annotations

import torch

from rgtg_hf import NextTokenRewardModel


def fill_head(model: NextTokenRewardModel, std: float = 0.02) -> NextTokenRewardModel:
    """Gives a head random weights: a new one scores every token 0."""
    for parameter in model.score.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return model.eval()
