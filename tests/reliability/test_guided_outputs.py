"""Whatever is decoded, however, with one processor or several: every step of it obeys the law."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from tests.reliability.law_oracle import Checked, increments_of_sequences
from tests.reliability.strategies import (
    Call,
    calls,
    cases,
    depths,
    families,
    guidance_configs,
    next_token_model_of,
    policy_of,
    reward_model_of,
    seeds,
)
from tests.tiny_models import EOS, FAMILIES, PAD, tiny_steering_head
from tests.versions import is_at_least


@dataclass
class Generations:
    """One processor and the calls it serves."""

    kind: str
    family: str
    reward_seed: int
    depth: int
    policy_seed: int
    config: RewardGuidanceConfig
    eos_token_ids: list[int]
    collect_records: bool
    calls: list[Call]


@st.composite
def generations(draw):
    kind = draw(st.sampled_from(["causal", "causal", "causal", "next token", "head"]))
    family = draw(families if kind == "causal" else st.sampled_from(["llama", "gpt2", "gemma3"]))
    scorers = ["auto"] if kind != "causal" else ["auto", "expand", FAMILIES[family][3]]
    return Generations(
        kind,
        family,
        draw(seeds),
        draw(depths),
        draw(seeds),
        draw(guidance_configs(scorers)),
        draw(st.sampled_from([[EOS], [EOS, 7, 11, 19], []])),
        draw(st.booleans()),
        draw(st.lists(calls(), min_size=1, max_size=3)),
    )


def reward_model_for(case):
    if case.kind == "head":
        return tiny_steering_head(policy_of(case.policy_seed), case.reward_seed)
    if case.kind == "next token":
        return next_token_model_of(case.family, case.reward_seed)
    return reward_model_of(case.family, case.reward_seed, case.depth)


def padded(prompts, filler):
    width = max(map(len, prompts))
    ids = torch.tensor([[filler] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    return ids, mask


def run_call(policy, processor, increments, config, eos_token_ids, call, prompts, make_policy=policy_of):
    """One checked call of generate(); returns what each prompt has become, without padding."""
    ids, mask = padded(prompts, call.filler if call.mask_told else PAD)
    if call.reset:
        processor.reset()
    if call.mask_told or call.own_prompts:
        processor.set_prompts(attention_mask=mask if call.mask_told else None, reward_prompts=call.own_prompts)
    mode = dict(call.mode)
    # Before 5.14, transformers' prompt lookup fails without a token that ends a row.
    assume(is_at_least("5.14") or eos_token_ids or "prompt_lookup_num_tokens" not in mode)
    if "assistant_model" in mode:
        mode["assistant_model"] = make_policy(mode["assistant_model"])
    beams = mode.get("num_beams", 1) > 1
    checked = Checked(processor, increments, call.own_prompts or prompts, ids.shape[1], config, eos_token_ids, beams)
    torch.manual_seed(call.seed)
    output = policy.generate(
        ids,
        attention_mask=mask,
        logits_processor=[checked],
        eos_token_id=eos_token_ids or None,
        pad_token_id=PAD,
        **mode,
    )
    assert checked.steps > 0
    copies = len(output) // len(prompts)
    return [[*prompt, *output[row * copies, ids.shape[1] :].tolist()] for row, prompt in enumerate(prompts)]


def obeys_the_law(case):
    model = reward_model_for(case)
    policy, increments = policy_of(case.policy_seed), increments_of_sequences(model)
    processor = RewardGuidedLogitsProcessor(
        model,
        guidance_config=case.config,
        pad_token_id=PAD,
        eos_token_id=case.eos_token_ids,
        collect_records=case.collect_records,
    )
    before, told = [], None
    for call in case.calls:
        prompts, goes_on = call.prompts, False
        if call.grown and before and len(before) == len(prompts):
            grown = [row[: len(old) + call.grown] for row, old in before]
            goes_on = call.mask_told or all(row[0] != PAD for row in grown)
            prompts = grown if goes_on else prompts
        # For the same prompts, and for those with one token more, what was told is true once more.
        if told is not None and (told == prompts or goes_on) and not call.mask_told:
            processor.set_prompts()
        told = prompts if call.mask_told or call.own_prompts else None
        rows = run_call(policy, processor, increments, case.config, case.eos_token_ids, call, prompts)
        before = list(zip(rows, prompts, strict=True))


@cases(40)
@given(case=generations())
def test_guided_generations_obey_the_law(case):
    obeys_the_law(case)


@pytest.mark.slow
@cases(900)
@given(case=generations())
def test_many_guided_generations_obey_the_law(case):
    obeys_the_law(case)
