"""The hidden states of the policy's own pass, among all the passes that may be made of it."""

import threading

import pytest
import torch
from transformers import DynamicCache

from rgtg_hf.compat import cache_argument
from rgtg_hf.decoding.hidden_capture import capture_hidden
from rgtg_hf.rewards.parts import find_backbone

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])


def last_hidden(policy, ids):
    return policy(ids, output_hidden_states=True, use_cache=False).hidden_states[-1][:, -1]


def taken(capture, ids=IDS):
    passes = capture.take(ids)
    return passes.hidden(passes.ends.tolist())


@torch.no_grad()
def test_the_states_are_those_behind_the_last_token(policy):
    expected = last_hidden(policy, IDS)
    with capture_hidden(policy) as capture:
        policy(IDS)
        assert torch.equal(taken(capture), expected)


@torch.no_grad()
def test_states_are_taken_once(policy):
    with capture_hidden(policy) as capture:
        policy(IDS)
        taken(capture)
        with pytest.raises(ValueError, match="has not just read these prefixes"):
            taken(capture)


@torch.no_grad()
def test_the_last_chunk_of_a_long_prompt_counts(policy):
    expected, cache = last_hidden(policy, IDS), DynamicCache()
    with capture_hidden(policy) as capture:
        policy(IDS[:, :2], **{cache_argument(policy.forward): cache})
        policy(IDS[:, 2:], **{cache_argument(policy.forward): cache})
        torch.testing.assert_close(taken(capture), expected)


@pytest.mark.parametrize("cached", ["caches that live", "caches that are freed", "no cache"])
@torch.no_grad()
def test_a_pass_of_another_processor_is_not_taken_for_the_policys(policy, cached):
    # Classifier-free guidance reads the last token alone, with a cache of its own, after generate() has read the rows.
    expected = last_hidden(policy, IDS)
    living = [DynamicCache(), DynamicCache()]
    with capture_hidden(policy) as capture:
        for ids, cache in zip((IDS, IDS[:, -1:]), living, strict=True):
            if cached == "no cache":
                policy(ids, use_cache=False)
            else:
                kept = cache if cached == "caches that live" else DynamicCache()
                policy(ids, **{cache_argument(policy.forward): kept})
        assert torch.equal(taken(capture), expected)


@torch.no_grad()
def test_a_pass_of_other_rows_or_tokens_is_refused(policy):
    for read in (IDS[:1], IDS.flip(1)):
        with capture_hidden(policy) as capture:
            policy(read)
            with pytest.raises(ValueError, match="has not just read these prefixes"):
                taken(capture)


@torch.no_grad()
def test_another_threads_pass_is_not_seen(policy):
    expected = last_hidden(policy, IDS)
    with capture_hidden(policy) as capture:
        policy(IDS)
        thread = threading.Thread(target=policy, args=(IDS.flip(0),))
        thread.start()
        thread.join()
        assert torch.equal(taken(capture), expected)


def test_nothing_is_captured_after_the_block(policy):
    before = len(find_backbone(policy)._forward_hooks)
    with capture_hidden(policy) as capture:
        assert len(find_backbone(policy)._forward_hooks) == before + 1
    assert len(find_backbone(policy)._forward_hooks) == before
    with pytest.raises(RuntimeError, match="steering has ended"):
        taken(capture)
