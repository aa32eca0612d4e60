"""Rewards through text obey the law: another tokenizer, encoders, functions, and sums of several."""

from dataclasses import dataclass
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from rgtg_hf.scoring.make import make_scorer
from tests.decoding.test_reward_kinds import OTHER, TOKENIZER, kinds
from tests.reliability.law_oracle import increments_of_scorer
from tests.reliability.strategies import Call, calls, cases, guidance_configs
from tests.reliability.test_guided_outputs import run_call
from tests.tiny_models import tiny_policy

PAD = EOS = TOKENIZER.eos_token_id


@cache
def policy(seed=1):
    return tiny_policy(seed, vocab_size=len(TOKENIZER), pad_token_id=PAD, bos_token_id=None, eos_token_id=EOS)


@cache
def reward_kinds():
    return kinds()


@dataclass
class ThroughText:
    """One processor and the calls it serves."""

    kind: str
    config: RewardGuidanceConfig
    calls: list[Call]


@st.composite
def generations(draw):
    kind = draw(st.sampled_from(sorted(reward_kinds())))
    several = st.lists(calls(len(TOKENIZER), may_own=False, first=PAD + 1), min_size=1, max_size=2)
    return ThroughText(kind, draw(guidance_configs(("auto",), widest=False)), draw(several))


def obeys_the_law(case):
    arguments = reward_kinds()[case.kind]
    processor = RewardGuidedLogitsProcessor(
        **arguments, tokenizer=TOKENIZER, guidance_config=case.config, eos_token_id=EOS
    )
    reference = make_scorer(**arguments, scorer="reference", tokenizer=TOKENIZER, eos_token_ids=[EOS])
    before, told = [], None
    for call in case.calls:
        prompts = call.prompts
        if call.grown and before and len(before) == len(prompts):
            prompts = [row[: len(old) + call.grown] for row, old in before]
        if told == prompts and not call.mask_told:  # for the same prompts, what was told is true once more
            processor.set_prompts()
        told = prompts if call.mask_told else None
        increments = increments_of_scorer(reference)
        rows = run_call(policy(), processor, increments, case.config, [EOS], call, prompts, policy)
        before = list(zip(rows, prompts, strict=True))


@cases(15)
@given(case=generations())
def test_rewards_through_text_obey_the_law(case):
    obeys_the_law(case)


@pytest.mark.slow
@cases(300)
@given(case=generations())
def test_many_rewards_through_text_obey_the_law(case):
    obeys_the_law(case)


def test_the_tokenizers_differ():
    assert TOKENIZER.get_vocab() != OTHER.get_vocab()
