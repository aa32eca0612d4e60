"""The reward model of a server, loaded and checked at its start."""

from __future__ import annotations

import torch

from rgtg_hf.config import RewardGuidanceConfig, RewardModelSource, resolve_guidance
from rgtg_hf.rewards.causal_classifier import check_positions
from rgtg_hf.rewards.load import load_reward_model
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.rewards.value_model import as_reward_model
from rgtg_hf.scoring.row_buffer import capacity_for
from rgtg_hf.serving.rows import RowScorer, cache_bytes_per_token, make_row_scorer
from rgtg_hf.serving.settings import MAX_TOP_K, ServerSettings

__all__ = ["load_row_scorer", "server_default"]

_SLACK = 1 + 1 / 8  # the cache grows in rows by an eighth more than is needed


@torch.inference_mode(False)
@torch.no_grad()
def load_row_scorer(
    settings: ServerSettings, device: torch.device, vocabulary_size: int, max_requests: int, max_length: int
) -> RowScorer:
    """Loads a server's reward model.

    Args:
        settings: The server's settings.
        device: Where the policy is.
        vocabulary_size: How many tokens the policy knows.
        max_requests: How many requests run at once at most.
        max_length: How many tokens one of them has at most.

    Returns:
        The scorer, without rows.

    Raises:
        OSError: If there is no such reward model.
        ValueError: If it cannot serve this policy, or the memory that was set aside for its cache may not be enough.
    """
    assert settings.reward_model is not None
    model = load_reward_model(settings.reward_model, settings.revision, dtype=settings.dtype)
    if isinstance(model, NextTokenRewardModel) and model.config.policy is not None:
        raise ValueError(
            f"{settings.reward_model} is a steering head, which reads its policy's hidden states: name it as `head` "
            "in place of `reward_model`, or merge it into the policy (`rgtg-hf merge`) if it is linear."
        )
    model = as_reward_model(model.to(settings.device or device), server_default(settings).soft_value_beta)
    scorer = make_row_scorer(model)
    if scorer.vocabulary_size != vocabulary_size:
        raise ValueError(
            f"The policy has {vocabulary_size} tokens, but the reward model's embedding has {scorer.vocabulary_size}: "
            "served reward models read the policy's token ids, so both need one vocabulary."
        )
    check_positions(scorer.reader.backbone.longest, max_length)
    per_token = cache_bytes_per_token(model)
    read_ahead = 0 if isinstance(model, NextTokenRewardModel) else MAX_TOP_K
    per_request = per_token * capacity_for(max_length + read_ahead + 1) * _SLACK
    needed, allowed = per_request * max_requests, settings.cache_gib * 2**30
    if needed > allowed:
        fitting = int(allowed // per_request)
        raise ValueError(
            f"The reward model's cache takes {per_token} bytes per token, so {max_requests} requests of {max_length} "
            f"tokens may need {needed / 2**30:.2f} GiB, but `cache_gib` allows {settings.cache_gib}: raise it, or "
            f"lower max_model_len, or max_num_seqs to {fitting}."
            if fitting
            else f"The reward model's cache takes {per_token} bytes per token, so one request of {max_length} tokens "
            f"may need {per_request / 2**30:.2f} GiB, but `cache_gib` allows {settings.cache_gib}: raise it, or lower "
            "max_model_len."
        )
    return scorer


def server_default(settings: ServerSettings) -> RewardGuidanceConfig:
    """The settings of a request that leaves them unset: the reward model's `guidance_config.json`, or the defaults."""
    assert settings.reward_model is not None
    return resolve_guidance({}, source=RewardModelSource(settings.reward_model, settings.revision)).config
