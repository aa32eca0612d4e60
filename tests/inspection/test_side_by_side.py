import threading

import pytest

import rgtg_hf
from rgtg_hf import RewardGuidanceConfig
from rgtg_hf.config import resolve_guidance
from rgtg_hf.inspection.inspect import encode_prompt
from rgtg_hf.inspection.side_by_side import stream_side_by_side
from tests.tiny_models import tiny_reward_model


def stream(policy, tokenizer, reward_model, tokens=6, stop=None, interval=0.001, do_sample=False, seed=0, **settings):
    ids = encode_prompt(tokenizer, "Hi!")
    return stream_side_by_side(
        policy,
        tokenizer,
        reward_model,
        ids,
        resolve_guidance({"beta": 2.0, "top_k": 5} | settings).config,
        do_sample=do_sample,
        max_new_tokens=tokens,
        stop=stop or threading.Event(),
        seed=seed,
        interval=interval,
    )


def test_both_sides_are_those_of_an_inspection(policy, tokenizer, reward_model):
    *_, (guided, unguided) = stream(policy, tokenizer, reward_model)
    found = rgtg_hf.inspect(
        policy, tokenizer, reward_model, "Hi!", beta=2.0, top_k=5, max_new_tokens=6, do_sample=False
    )
    assert (guided.text, unguided.text) == (found.guided.text, found.unguided.text)
    assert guided.rewards == pytest.approx(found.guided.rewards, abs=1e-4)


@pytest.mark.parametrize("search", ["tokens", "best", "resample"])
def test_each_side_has_the_random_numbers_that_it_has_alone(policy, tokenizer, reward_model, search):
    settings = {"search": search, "num_rows": 3, "block_size": 2}
    *_, (guided, unguided) = stream(policy, tokenizer, reward_model, do_sample=True, seed=3, **settings)
    config = RewardGuidanceConfig(beta=2.0, top_k=5, **settings)
    found = rgtg_hf.inspect(policy, tokenizer, reward_model, "Hi!", guidance_config=config, max_new_tokens=6, seed=3)
    assert (guided.text, unguided.text) == (found.guided.text, found.unguided.text)
    assert guided.divergence_bound == found.guided.divergence_bound


def test_stop_ends_both_sides_and_keeps_what_was_written(policy, tokenizer, reward_model):
    stop = threading.Event()
    looks = []
    for traces in stream(policy, tokenizer, reward_model, tokens=1500, stop=stop):
        looks.append([len(trace.steps) for trace in traces])
        stop.set()
    assert all(0 < length < 1500 for length in looks[-1])


def test_nothing_goes_on_when_nobody_looks_any_more(policy, tokenizer, reward_model):
    before = threading.active_count()
    looks = stream(policy, tokenizer, reward_model, tokens=1500)
    next(looks)
    looks.close()
    assert threading.active_count() == before


def test_errors_of_the_threads_arrive(policy, tokenizer):
    reward_model = tiny_reward_model(vocab_size=7)
    with pytest.raises(ValueError, match="vocabularies differ"):
        list(stream(policy, tokenizer, reward_model))
