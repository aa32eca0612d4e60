"""A function of texts sees prompts and responses, each distinct one once, and must return a number for each."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.scoring.scorer import PrefixBatch
from rgtg_hf.scoring.text.whole_texts import CallableScorer
from tests.scoring.generations import partly_wanted
from tests.scoring.text.text_models import BYTES, length, text_generation


def test_a_function_sees_prompts_and_responses():
    scorer = CallableScorer(length, BYTES)
    prompt = BYTES("The cat")["input_ids"]
    row = torch.tensor([prompt + BYTES(" sat")["input_ids"]])
    candidates = torch.tensor([[BYTES.encode("!")[0], BYTES.eos_token_id, BYTES.encode("é")[0]]])
    found = scorer.score(PrefixBatch(row, torch.ones_like(row), len(prompt)), candidates)
    # The end and half a letter have no text.
    assert_close(found, torch.tensor([[1 / 7, 0.0, 0.0]]))


def test_a_function_is_asked_once_per_distinct_text():
    asked = []

    def count(prompts, responses):
        asked.extend(zip(prompts, responses, strict=True))
        return torch.zeros(len(prompts), dtype=torch.float64)

    scorer = CallableScorer(count, BYTES)
    for step in text_generation():
        asked.clear()
        scorer.score(*step)
        assert len(asked) == len(set(asked))
    scorer.score(*step)
    asked.clear()
    scorer.score(*step)
    assert not asked


def test_texts_that_are_not_wanted_are_neither_decoded_nor_asked_for(monkeypatch):
    asked, decoded = [], []

    def count(prompts, responses):
        asked.extend(responses)
        return [0.0] * len(prompts)

    scorer = CallableScorer(count, BYTES)
    decode = scorer.policy_text.text
    monkeypatch.setattr(scorer.policy_text, "text", lambda *ids: decoded.append(ids) or decode(*ids))
    for prefixes, candidates, wanted in text_generation(make=partly_wanted):
        asked.clear(), decoded.clear()
        scorer.score(prefixes, candidates, wanted)
        assert len(decoded) == int(wanted.sum() + wanted.any(-1).sum())
        assert len(asked) <= len(decoded)


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, lambda found: [torch.tensor(one) for one in found]])
def test_a_function_may_return_lists_or_tensors(kind):
    step = next(text_generation())
    expected = CallableScorer(length, BYTES).score(*step)
    assert_close(CallableScorer(lambda p, r: kind(length(p, r)), BYTES).score(*step), expected)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (lambda n: [1.0] * (n - 1), ValueError, "returned shape"),
        (lambda n: torch.zeros(n, 1), ValueError, "returned shape"),
        (lambda n: 1.0, ValueError, r"returned shape \(\)"),
        (lambda n: None, TypeError, "returned a NoneType"),
        (lambda n: ["good"] * n, TypeError, "returned a list"),
        (lambda n: [[1.0], [1.0, 2.0]], TypeError, "returned a list"),
        (lambda n: [float("nan")] * n, FloatingPointError, "returned nan for the response ''"),
        (lambda n: torch.full((n,), float("inf")), FloatingPointError, "returned inf"),
    ],
)
def test_what_a_function_must_not_return_is_refused(returned, error, message):
    def rule(prompts, responses):
        return returned(len(prompts))

    with pytest.raises(error, match=f"reward function rule {message}"):
        CallableScorer(rule, BYTES).score(*next(text_generation()))
