"""All scorers keep one promise: increments of the wanted candidates, whatever was read or skipped before."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.scoring.choose import SCORERS, choose_scorer
from rgtg_hf.scoring.combined import CombinedScorer
from rgtg_hf.scoring.make import make_scorer
from rgtg_hf.scoring.scorer import PrefixBatch, place_increments
from tests.scoring.generations import partly_wanted
from tests.scoring.text.text_models import BYTES, PIECES, WORDS, causal, encoder_of, length, text_generation
from tests.tiny_models import (
    FAMILIES,
    VOCAB_SIZE,
    tiny_next_token_model,
    tiny_policy,
    tiny_reward_model,
    tiny_steering_head,
)

CACHED = ("gemma3", "gpt_neo", "mpt", "jamba")
CASES = {
    **{f"siblings-{name}": ("siblings", name) for name, family in FAMILIES.items() if family[3] == "siblings"},
    # The cache of these two is the same for all families but recurrent ones, and the ways to mask are three.
    **{f"{scorer}-{name}": (scorer, name) for scorer in ("expand", "next_token") for name in CACHED},
    "hybrid-jamba": ("hybrid", "jamba"),
    "reference": ("reference", "llama"),
    "steering head": ("head", None),
    "retokenized": ("text", "llama"),
    "retokenized-bloom": ("text", "bloom"),
    "retokenized-jamba": ("text", "jamba"),
    "encoder": ("encoder", None),
    "function": ("function", None),
    "combined": ("combined", "llama"),
}


def scorers_of(case):
    """The scorer and its reference, for increments of everything."""
    kind, family = CASES[case]
    if kind == "text":
        model = causal(PIECES, family)
        return [make_scorer(model, name, tokenizer=BYTES, reward_tokenizer=PIECES) for name in ("auto", "reference")]
    if kind == "encoder":
        model = encoder_of()
        return [make_scorer(model, tokenizer=BYTES, reward_tokenizer=WORDS) for _ in range(2)]
    if kind == "function":
        return [make_scorer(length, tokenizer=BYTES) for _ in range(2)]
    if kind == "combined":
        models = [tiny_reward_model(seed=seed) for seed in (4, 5)]
        return [
            CombinedScorer([SCORERS[name](model) for model in models], [1.0, -2.0])
            for name in ("siblings", "reference")
        ]
    if kind == "head":
        model = tiny_steering_head(tiny_policy())
        return SCORERS["next_token"](model), SCORERS["reference"](model)
    model = tiny_next_token_model(family) if kind == "next_token" else tiny_reward_model(family)
    return choose_scorer(model, kind), SCORERS["reference"](model)


def steps_of(case, seed=0):
    through_text = CASES[case][0] in ("text", "encoder", "function")
    return text_generation(make=partly_wanted, seed=seed) if through_text else partly_wanted(seed)


@pytest.mark.parametrize("case", CASES)
def test_every_scorer_honours_wanted(case):
    scorer, reference = scorers_of(case)
    seeds = (0,) if "jamba" in case else (0, 1)  # it is slow on a CPU
    for prefixes, candidates, wanted in [step for seed in seeds for step in steps_of(case, seed)]:
        found, expected = scorer.score(prefixes, candidates, wanted), reference.score(prefixes, candidates)
        assert found.dtype == torch.float32
        assert bool((found[~wanted] == 0).all())
        assert_close(found[wanted], expected[wanted], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_read_where_nothing_is_wanted(case):
    scorer, _ = scorers_of(case)
    steps = [step[:2] for step in steps_of(case)]
    scorer.score(*steps[0])
    before = scorer.tokens_computed
    for prefixes, candidates in steps[1:4]:
        nothing = torch.zeros_like(candidates, dtype=torch.bool)
        assert not scorer.score(prefixes, candidates, nothing).any()
    assert scorer.tokens_computed == before


# A padded cache reads all rows at each step.
KEEPS_ROWS = [case for case in CASES if case.startswith(("siblings", "steering head", "next_token-gemma3"))]


@pytest.mark.parametrize("case", KEEPS_ROWS)
def test_a_row_that_lies_behind_is_kept_and_costs_the_tokens_that_it_missed(case):
    scorer, _ = scorers_of(case)
    candidates = torch.tensor([[5, 6], [7, 8]])
    ids = torch.randint(3, VOCAB_SIZE, (2, 40), generator=torch.Generator().manual_seed(0))
    spent = []
    for end in range(30, 35):
        wanted = torch.ones_like(candidates, dtype=torch.bool)
        wanted[0] = end in (30, 34)
        prefixes = PrefixBatch(ids[:, :end], torch.ones_like(ids[:, :end]), 30)
        before = scorer.tokens_computed
        scorer.score(prefixes, candidates, wanted)
        spent.append(scorer.tokens_computed - before)
    per_row = 1 if CASES[case][0] in ("next_token", "head") else 3
    assert spent[1:4] == [per_row] * 3
    assert spent[4] <= 2 * (3 + per_row)  # and no prompt


def test_a_step_is_copied_to_lists_without_padding_and_unwanted_candidates():
    ids, mask = torch.tensor([[0, 5, 6, 7], [8, 9, 0, 1]]), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    candidates, wanted = torch.tensor([[3, 4], [5, 6]]), torch.tensor([[False, True], [False, False]])
    first, second = PrefixBatch(ids, mask, 2).on_host(candidates, wanted)
    assert first == ([5], [6, 7], [4], [1])
    assert first.prefix == [5, 6, 7]
    assert second == ([8, 9], [0, 1], [], [])
    assert PrefixBatch(ids, mask, 2).on_host(candidates, None)[1].candidates == [5, 6]


def test_increments_are_put_where_their_candidates_stand():
    candidates = torch.zeros(2, 3, dtype=torch.long)
    found = place_increments([[1.0, 3.0, 0.5], []], [[0, 2], []], candidates)
    assert_close(found, torch.tensor([[2.0, 0.0, -0.5], [0.0, 0.0, 0.0]]))
