"""Steering heads obey the law too: any heads, betas for each row, candidates, guards and modes."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rgtg_hf import RewardGuidanceConfig, steering
from tests.reliability.law_oracle import Checked, increments_of_sequences
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
        draw(st.lists(calls(drafts=False, may_own=False, may_grow=False), min_size=1, max_size=2)),
    )


def obeys_the_law(block):
    policy = policy_of(block.policy_seed)
    heads = [tiny_steering_head(policy, seed, nonlinear=block.nonlinear) for seed in block.heads]
    config = replace(block.config, beta=1.0, scorer=None)  # the heads have betas of their own
    settings = {name: value for name, value in vars(config).items() if name != "beta"}
    for call in block.calls:
        ids, mask = padded(call.prompts, call.filler)
        betas = [torch.tensor(row[: len(ids)]) if block.per_row else row[0] for row in block.betas]
        of_prompt = {tuple(prompt): row for row, prompt in enumerate(call.prompts)}

        def increments(prompt, response, candidates, betas=betas, of_prompt=of_prompt):
            total = 0.0
            for head, beta in zip(heads, betas, strict=True):
                found = increments_of_sequences(head)(prompt, response, candidates)
                total = total + (beta[of_prompt[tuple(prompt)]] if block.per_row else beta) * found
            return total

        if len(of_prompt) < len(ids):
            continue  # alike prompts cannot be told apart here, nor do they need to be
        with steering(policy, list(zip(heads, betas, strict=True)), **settings) as processor:
            beams = call.mode.get("num_beams", 1) > 1
            checked = Checked(processor, increments, call.prompts, ids.shape[1], config, [EOS], beams)
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
