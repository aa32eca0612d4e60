"""The candidates' cache leaves that of their prefixes alone, until one of them is followed."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, JambaConfig

from rgtg_hf.compat import cache_argument
from rgtg_hf.scoring.hybrid_cache import HybridCache, check_layers
from rgtg_hf.scoring.shared_attention import CandidateLayout
from tests.tiny_models import tiny_reward_model


@pytest.fixture
def read():
    """A model, the cache of two prefixes that it has read, and a layout of three candidates for each."""
    model = tiny_reward_model("jamba").model
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    with torch.no_grad():
        model(ids, use_cache=True, **{cache_argument(model.forward): cache})
    layout = CandidateLayout(torch.arange(2).repeat_interleave(3), torch.arange(3).repeat(2), 3, ids >= 0)
    return model, cache, layout


def states(cache):
    found = []
    for layer in cache.layers:
        for part in vars(layer).values():
            found += [one for one in (part.values() if isinstance(part, dict) else [part]) if torch.is_tensor(one)]
    return [one.clone() for one in found]


def write(cache, layout):
    """Writes what a pass over candidates would."""
    for number, layer in enumerate(cache.layers):
        if hasattr(layer, "conv_states"):
            conv, recurrent = (
                part[0] if isinstance(part, dict) else part for part in (layer.conv_states, layer.recurrent_states)
            )
            conv.add_(torch.arange(6.0)[:, None, None])
            recurrent.add_(torch.arange(6.0).view(-1, *[1] * (recurrent.ndim - 1)))
        else:
            own = torch.arange(6.0)[:, None, None, None].expand(6, layer.keys.shape[1], 1, layer.keys.shape[3])
            keys, values = cache.update(own, -own, number)
            assert keys.shape[:3] == (2, layer.keys.shape[1], 4 + 3)
            assert_close(keys[:, 0, 4:, 0], torch.arange(6.0).view(2, 3))
            assert_close(values[:, 0, 4:, 0], -torch.arange(6.0).view(2, 3))


def test_the_cache_of_the_prefixes_stays_as_it_is(read):
    _, held, layout = read
    before = states(held)
    write(HybridCache(held, layout), layout)
    for found, expected in zip(states(held), before, strict=True):
        assert torch.equal(found, expected)


def test_followed_candidates_become_the_prefixes(read):
    _, held, layout = read
    before = {number: layer.keys.clone() for number, layer in enumerate(held.layers) if hasattr(layer, "keys")}
    cache = HybridCache(held, layout)
    write(cache, layout)
    after = cache.follow(torch.tensor([4, 0, 4]), moved=True)
    assert after is held
    for number, layer in enumerate(after.layers):
        if number in before:
            assert_close(layer.keys[:, :, :4], before[number][[1, 0, 1]])
            assert_close(layer.keys[:, 0, 4, 0], torch.tensor([4.0, 0.0, 4.0]))
            assert_close(layer.values[:, 0, 4, 0], torch.tensor([-4.0, 0.0, -4.0]))
        else:
            conv = layer.conv_states[0] if isinstance(layer.conv_states, dict) else layer.conv_states
            assert len(conv) == 3
            assert_close(conv[0], conv[2])


def test_only_caches_of_known_layers_are_shared():
    check_layers(JambaConfig(num_hidden_layers=4, attn_layer_period=2, attn_layer_offset=1))
    with pytest.raises(ValueError, match="'DynamicSlidingWindowLayer'"):
        check_layers(tiny_reward_model("gemma3").config)
