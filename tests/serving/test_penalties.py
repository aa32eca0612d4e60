"""Penalties act on the policy's scores, and are taken back exactly."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.serving.penalties import Penalties

PROMPT, RESPONSE = [1, 4], [2, 4, 2]


@pytest.mark.parametrize("penalties", [Penalties(1.3), Penalties(0.7, 0.4, -0.2), Penalties(1.0, -0.5, 1.5)])
def test_they_are_what_their_definitions_say_and_undone_exactly(penalties):
    torch.manual_seed(0)
    scores = torch.randn(8)
    scores[5] = -torch.inf
    expected = scores.clone()
    for token in {*PROMPT, *RESPONSE}:
        one = expected[token]
        expected[token] = one / penalties.repetition if one > 0 else one * penalties.repetition
    for token in set(RESPONSE):
        expected[token] -= penalties.frequency * RESPONSE.count(token) + penalties.presence
    of_step = penalties.after(PROMPT, RESPONSE, scores)
    found = of_step.apply(scores)
    assert_close(found, expected)
    assert_close(of_step.undo(found), scores)


def test_a_request_without_any_has_none():
    plain = SimpleNamespace(repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0)
    assert Penalties.of(plain) is None
    plain.presence_penalty = 0.5
    assert Penalties.of(plain) == Penalties(presence=0.5)
