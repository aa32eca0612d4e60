"""Steering heads obey the law too: any heads, betas for each row, candidates, guards and modes."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rgtg_hf import RewardGuidanceConfig, steering
from tests.reliability.law_oracle import Checked, rewards_of_sequences
from tests.reliability.strategies import Call, calls, cases, guidance_configs, policy_of, seeds
from tests.reliability.test_guided_outputs import padded
from tests.tiny_models import EOS, PAD, tiny_steering_head

BETAS = (1.0, -2.0, 0.5, 10.0, 0.0)


@dataclass
class Steered:
    """A block of `with steering(...)` and the calls in it."""

    policy_seed: int
    heads: list[int]
    nonlinear: bool
    betas: list[list[float]]
    per_row: bool
    config: RewardGuidanceConfig
    max_increment: float | None
    max_step_kl: float | None
    calls: list[Call]


@st.composite
def steered_blocks(draw):
    heads = draw(st.lists(seeds, min_size=1, max_size=3))
    return Steered(
        draw(seeds),
        heads,
        draw(st.booleans()),
        [draw(st.lists(st.sampled_from(BETAS), min_size=3, max_size=3)) for _ in heads],
        draw(st.booleans()),
        draw(guidance_configs()),
        draw(st.none() | st.floats(0.1, 5.0)),
        draw(st.none() | st.floats(0.01, 2.0)),
        draw(st.lists(calls(drafts=False, may_own=False, may_grow=False), min_size=1, max_size=2)),
    )


def guards_of(block):
    """What the guards make of a row's increments: by bisection in double precision."""

    def divergence(scores, increments):
        guided, policy = (scores + increments).log_softmax(-1), scores.log_softmax(-1)
        return float((guided.exp() * (guided - policy)).sum())

    def limit(scores, increments, row):
        scores, increments = scores.double(), increments.double()
        if block.max_increment is not None:
            increments = increments.clamp(-block.max_increment, block.max_increment)
        if block.max_step_kl is None or divergence(scores, increments) <= block.max_step_kl:
            return increments.float()
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            fits = divergence(scores, middle * increments) <= block.max_step_kl
            low, high = (middle, high) if fits else (low, middle)
        return (low * increments).float()

    return limit


def obeys_the_law(block):
    policy = policy_of(block.policy_seed)
    heads = [tiny_steering_head(policy, seed, nonlinear=block.nonlinear) for seed in block.heads]
    config = block.config
    filters = {"top_k": config.top_k, "top_p": config.top_p, "min_p": config.min_p}
    guards = {"max_increment": block.max_increment, "max_step_kl": block.max_step_kl}
    for call in block.calls:
        ids, mask = padded(call.prompts, call.filler)
        betas = [torch.tensor(row[: len(ids)]) if block.per_row else row[0] for row in block.betas]
        of_prompt = {tuple(prompt): row for row, prompt in enumerate(call.prompts)}

        def rewards(prompt, response, candidates, betas=betas, of_prompt=of_prompt):
            total = 0.0
            for head, beta in zip(heads, betas, strict=True):
                found, base = rewards_of_sequences(head)(prompt, response, candidates)
                total = total + (beta[of_prompt[tuple(prompt)]] if block.per_row else beta) * (found - base)
            return total, torch.tensor(0.0)

        if len(of_prompt) < len(ids):
            continue  # alike prompts cannot be told apart here, nor do they need to be
        whole = RewardGuidanceConfig(beta=1.0, **filters)
        with steering(policy, list(zip(heads, betas, strict=True)), **filters, **guards) as processor:
            checked = Checked(
                processor,
                rewards,
                call.prompts,
                ids.shape[1],
                whole,
                [EOS],
                call.mode.get("num_beams", 1) > 1,
                guards_of(block),
            )
            torch.manual_seed(call.seed)
            policy.generate(
                ids, attention_mask=mask, logits_processor=[checked], pad_token_id=PAD, eos_token_id=EOS, **call.mode
            )


@cases(20)
@given(block=steered_blocks())
def test_steering_heads_obey_the_law(block):
    obeys_the_law(block)


@pytest.mark.slow
@cases(300)
@given(block=steered_blocks())
def test_many_blocks_of_steering_obey_the_law(block):
    obeys_the_law(block)
