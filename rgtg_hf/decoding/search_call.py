"""Makes a search ready: the scorer, the reward model's prompts, and the processors of the proposal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from rgtg_hf.config import RewardGuidanceConfig
from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
from rgtg_hf.decoding.padding import kept_ids
from rgtg_hf.decoding.processor_order import insert_guidance
from rgtg_hf.decoding.proposal import CandidateFilter
from rgtg_hf.decoding.reward_prompts import RewardPrompts
from rgtg_hf.decoding.search import search
from rgtg_hf.decoding.special_tokens import special_tokens
from rgtg_hf.decoding.steering import SteeringProcessor
from rgtg_hf.rewards.model_state import evaluating
from rgtg_hf.rewards.next_token import NextTokenRewardModel
from rgtg_hf.scoring.make import make_scorer

__all__ = ["search_with"]


def search_with(
    model: Any,
    input_ids: Tensor,
    reward_model: Any,
    config: RewardGuidanceConfig,
    *,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: Any,
    weights: Any,
    reward_prompts: Any,
    tokenizer: Any,
    reward_tokenizer: Any,
    streamer: Any,
    **model_kwargs: Any,
) -> Any:
    """Runs the search of a call. `config` has the resolved settings; all else is as for `reward_guided_generate`.

    A processor or a steering head among `logits_processor` guides the rows within their blocks. Without any, rows are
    sampled from the policy's candidates.
    """
    several = isinstance(reward_model, (list, tuple))
    for one in reward_model if several else [reward_model]:
        if isinstance(one, NextTokenRewardModel) and one.config.policy is not None:
            one.attach(model)
    tokens = special_tokens(tokenizer, reward_model, generation_config.pad_token_id, generation_config.eos_token_id)
    scorer = make_scorer(
        reward_model,
        config.scorer,  # type: ignore[arg-type]
        tokenizer=tokenizer,
        reward_tokenizer=reward_tokenizer,
        weights=weights,
        eos_token_ids=tokens.eos,
        value_beta=config.soft_value_beta,
    )
    guides = [one for one in logits_processor if isinstance(one, (RewardGuidedLogitsProcessor, SteeringProcessor))]
    if not guides:
        logits_processor = insert_guidance(logits_processor, CandidateFilter(config, scorer.vocabulary_size))
    own_prompts = None
    if reward_prompts is not None:
        special = [tokens.bos, *tokens.eos]
        own = RewardPrompts(reward_prompts, tokenizer, tokens.pad, special, scorer.vocabulary_size)
        own_prompts = kept_ids(own.input_ids, own.attention_mask)
    if streamer is not None:
        streamer.put(input_ids.cpu())
    with torch.no_grad(), evaluating(reward_model):
        return search(
            model,
            input_ids,
            scorer,
            config,
            logits_processor=logits_processor,
            guides=guides,
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            own_prompts=own_prompts,
            streamer=streamer,
            **model_kwargs,
        )
