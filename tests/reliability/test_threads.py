"""Generations in threads of their own: with a processor each or with one for all, they do not meet."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor, steering
from tests.decoding.test_reward_kinds import TOKENIZER, kinds
from tests.tiny_models import left_padded, tiny_next_token_model, tiny_policy, tiny_reward_model, tiny_steering_head

THREADS = 3
# Sampling draws from one global generator, so threads that sample cannot be compared with one that does.
MODES = [{"do_sample": False}, {"num_beams": 3, "num_return_sequences": 3}, {"prompt_lookup_num_tokens": 3}]


def prompts_of(number, rows):
    """Prompts that begin alike in all threads, as requests with one system prompt do."""
    return [[5, 6, 7, *(8 + (number + row) % 5 for _ in range(number + row)), 9] for row in range(rows)]


def generate(policy, processor, number, mode):
    ids, mask = left_padded(prompts_of(number, 1 if "prompt_lookup_num_tokens" in mode else 1 + number % 3))
    return policy.generate(ids, attention_mask=mask, logits_processor=[processor], max_new_tokens=6, **mode)


def at_the_same_time(work, count=THREADS):
    """The results of `work(number)` for each number, in threads that start together."""
    together = threading.Barrier(count)

    def wait_and_work(number):
        together.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_work, range(count)))


def assert_all_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other)
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


REWARD_MODELS = {
    "siblings": tiny_reward_model,
    "hybrid": lambda: tiny_reward_model("jamba"),
    "expand": lambda: tiny_reward_model("bloom"),
    "next token": tiny_next_token_model,
}


@pytest.mark.parametrize("kind", REWARD_MODELS)
@pytest.mark.parametrize(
    "shared",
    [pytest.param(False, marks=pytest.mark.slow, id="a processor each"), pytest.param(True, id="one for all")],
)
def test_threads_get_what_one_thread_gets(policy, kind, shared):
    model, config = REWARD_MODELS[kind](), RewardGuidanceConfig(beta=2.0, top_k=4)

    def processor():
        return RewardGuidedLogitsProcessor(model, guidance_config=config)

    def work(number, own):
        return [generate(policy, own, number, mode) for mode in MODES]

    expected = [work(number, processor()) for number in range(THREADS)]
    one_for_all = processor()
    assert_all_equal(at_the_same_time(lambda n: work(n, one_for_all if shared else processor())), expected)


@pytest.mark.parametrize("kind", ["function", "another tokenizer", "encoder", "several"])
@pytest.mark.parametrize(
    "shared",
    [pytest.param(False, marks=pytest.mark.slow, id="a processor each"), pytest.param(True, id="one for all")],
)
def test_rewards_through_text_know_each_threads_prompts(kind, shared):
    policy = tiny_policy(vocab_size=len(TOKENIZER), pad_token_id=0, eos_token_id=TOKENIZER.eos_token_id)
    arguments = kinds()[kind]

    def processor():
        return RewardGuidedLogitsProcessor(**arguments, beta=2.0, top_k=4, tokenizer=TOKENIZER)

    def work(number, own):
        return [generate(policy, own, number, mode) for mode in MODES]

    expected = [work(number, processor()) for number in range(THREADS)]
    one_for_all = processor()
    assert_all_equal(at_the_same_time(lambda n: work(n, one_for_all if shared else processor())), expected)


def test_blocks_of_steering_in_several_threads_do_not_meet(policy):
    heads = [tiny_steering_head(policy, seed) for seed in range(THREADS)]

    def work(number):
        with steering(policy, [(heads[number], 3.0)]) as processor:
            return [generate(policy, processor, number, mode) for mode in MODES[:2] for _ in range(2)]

    expected = [work(number) for number in range(THREADS)]
    assert_all_equal(at_the_same_time(work), expected)


def test_a_shared_processor_counts_every_step(policy, reward_model):
    processor = RewardGuidedLogitsProcessor(reward_model, top_k=4)
    at_the_same_time(lambda number: generate(policy, processor, number, {"eos_token_id": None, "do_sample": False}))
    assert processor.stats.steps == 6 * THREADS
