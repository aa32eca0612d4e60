"""Candidates attend to the keys of their prefix as if each had a copy of them."""

import threading

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rgtg_hf.scoring.shared_attention import CandidateLayout, sharing_attention
from tests.tiny_models import tiny_policy

PREFIXES, SLOTS = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([1, 3, 0, 0, 2, 3])
IS_TOKEN = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]).bool()
LAYOUT = CandidateLayout(PREFIXES, SLOTS, 4, IS_TOKEN)


class Attention(nn.Module):
    num_key_value_groups = 2
    is_causal = True


@pytest.fixture
def decoder():
    return tiny_policy().model


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(6, 4, 1, 8, generator=generator)
    own_key, own_value = torch.randn(2, 6, 2, 1, 8, generator=generator)
    key, value = torch.randn(2, 3, 2, 5, 8, generator=generator)
    return query, own_key, own_value, key, value


def attend(*arguments, **kwargs):
    return AttentionInterface()["rgtg_shared"](Attention(), *arguments, **kwargs)


def test_each_candidate_sees_its_prefix_and_itself(decoder, states):
    query, own_key, own_value, key, value = states
    copied = torch.cat([key[PREFIXES], own_key], 2), torch.cat([value[PREFIXES], own_value], 2)
    mask = torch.cat([IS_TOKEN[PREFIXES], torch.ones(6, 1, dtype=torch.bool)], 1)[:, None, None]
    expected = sdpa_attention_forward(Attention(), query, *copied, mask, scaling=0.3)[0]
    shared = torch.cat([key, LAYOUT.spread(own_key)], 2), torch.cat([value, LAYOUT.spread(own_value)], 2)
    with sharing_attention(decoder, LAYOUT):
        found, weights = attend(query, *shared, None, scaling=0.3)
    assert weights is None
    assert_close(found, expected)


def test_an_attention_that_does_more_is_refused(decoder, states):
    query, own_key, own_value, *_ = states
    with sharing_attention(decoder, LAYOUT), pytest.raises(ValueError, match="'softcap'"):
        attend(query, own_key, own_value, None, softcap=30.0)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_a_model_has_its_own_attention_again_afterwards(decoder, kind):
    decoder.set_attn_implementation(kind)
    with sharing_attention(decoder, LAYOUT):
        assert decoder.config._attn_implementation == "rgtg_shared"
    assert decoder.config._attn_implementation == kind
    with pytest.raises(ZeroDivisionError), sharing_attention(decoder, LAYOUT):
        _ = 1 / 0
    assert decoder.config._attn_implementation == kind


def test_it_has_it_again_when_the_last_of_several_threads_is_done(decoder):
    decoder.set_attn_implementation("eager")
    inside, leave = threading.Event(), threading.Event()

    def other():
        with sharing_attention(decoder, LAYOUT):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with sharing_attention(decoder, LAYOUT):
        thread.start()
        assert inside.wait(10)
    assert decoder.config._attn_implementation == "rgtg_shared"
    leave.set()
    thread.join()
    assert decoder.config._attn_implementation == "eager"


def test_a_thread_that_reads_whole_sequences_meanwhile_gets_what_it_gets_alone(decoder):
    ids, mask = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    found = []

    def read():
        with torch.no_grad():
            found.append(decoder(ids, attention_mask=mask).last_hidden_state)

    read()
    with sharing_attention(decoder, LAYOUT):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert_close(*[one[mask.bool()] for one in found])
