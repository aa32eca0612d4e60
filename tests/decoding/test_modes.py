"""Every decoding mode of generate() is steered alike by every scorer, and by all three ways in."""

import threading

import pytest
import torch
from torch.testing import assert_close
from transformers import LogitsProcessor, T5Config, T5ForConditionalGeneration

from rgtg_hf import (
    RewardGuidanceConfig,
    RewardGuidedGenerationMixin,
    RewardGuidedLogitsProcessor,
    reward_guided_generate,
)
from tests.tiny_models import EOS, PAD, VOCAB_SIZE, left_padded, tiny_policy

BATCH = [[5, 6, 7], [8, 9, 10, 11, 12, 13], [20, 21, 22, 23]]
SINGLE = [[8, 9, 10, 11, 9, 10]]
# Mode: prompts, settings of generate().
MODES = {
    "greedy": (BATCH, {}),
    "sampling": (BATCH, {"do_sample": True}),
    "beam search": (BATCH, {"num_beams": 3}),
    "beam sampling": (BATCH, {"num_beams": 3, "do_sample": True}),
    "return sequences": (BATCH, {"do_sample": True, "num_return_sequences": 3}),
    "beams returned": (BATCH, {"num_beams": 4, "num_return_sequences": 4}),
    "one row": (SINGLE, {}),
    "static cache": (BATCH, {"cache_implementation": "static"}),
    "no cache": (BATCH, {"use_cache": False}),
    "prompt lookup": (SINGLE, {"prompt_lookup_num_tokens": 3}),
    "assisted decoding": (SINGLE, {"assistant_model": tiny_policy(seed=3)}),
    "repetition penalty": (BATCH, {"repetition_penalty": 1.3}),
    "temperature": (BATCH, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}),
}
CONFIG = RewardGuidanceConfig(beta=2.0, top_k=6)


class KeepScores(LogitsProcessor):
    """Keeps what the processor before it made of the scores."""

    def __init__(self):
        self.kept = []

    def __call__(self, input_ids, scores):
        self.kept.append(scores.clone())
        return scores


def generate(policy, rows, *, seed=0, max_new_tokens=10, **settings):
    ids, mask = left_padded(rows)
    torch.manual_seed(seed)
    return policy.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, **settings)


def processor_with(scorer, reward_model, **settings):
    if scorer == "recorded siblings":
        scorer, settings = "siblings", settings | {"use_cuda_graph": True}
    config = RewardGuidanceConfig(beta=CONFIG.beta, top_k=CONFIG.top_k, scorer=scorer)
    return RewardGuidedLogitsProcessor(reward_model, guidance_config=config, **settings)


# What these add to others is in the ids alone, which the scorers see in the same way.
ALIKE = ("beam sampling", "return sequences", "beams returned", "no cache", "temperature", "assisted decoding")


@pytest.mark.parametrize(
    ("mode", "scorer"),
    [
        pytest.param(mode, scorer, marks=pytest.mark.slow if (scorer, mode in ALIKE) == ("expand", True) else ())
        for mode in MODES
        for scorer in ("siblings", "recorded siblings", "expand")
    ],
)
def test_every_mode_equals_the_whole_sequence_reference(policy, reward_model, mode, scorer):
    rows, settings = MODES[mode]
    found, expected = KeepScores(), KeepScores()
    sequences = [
        generate(policy, rows, logits_processor=[processor_with(name, reward_model), keep], **settings)
        for name, keep in ((scorer, found), ("reference", expected))
    ]
    assert torch.equal(*sequences)
    assert len(found.kept) == len(expected.kept) > 0
    for one, other in zip(found.kept, expected.kept, strict=True):
        assert_close(one, other, atol=1e-4 * CONFIG.beta, rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_steered(policy, reward_model, mode):
    rows, settings = MODES[mode]
    steered = generate(policy, rows, logits_processor=[processor_with("auto", reward_model)], **settings)
    assert not torch.equal(steered, generate(policy, rows, **settings))


def test_drafts_do_not_change_what_greedy_decoding_gives(policy, reward_model):
    plain, lookup, assisted = (
        generate(
            policy, SINGLE, logits_processor=[processor_with("siblings", reward_model)], max_new_tokens=24, **mode
        )
        for mode in ({}, MODES["prompt lookup"][1], MODES["assisted decoding"][1])
    )
    assert torch.equal(plain, lookup)
    assert torch.equal(plain, assisted)


@pytest.mark.parametrize("mode", MODES)
def test_the_mixin_gives_the_processors_tokens(policy, guided_policy, reward_model, mode):
    rows, settings = MODES[mode]
    expected = generate(policy, rows, logits_processor=[processor_with("auto", reward_model)], **settings)
    guided = generate(guided_policy, rows, reward_model=reward_model, guidance_config=CONFIG, **settings)
    assert torch.equal(guided, expected)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode not in ("prompt lookup", "assisted decoding")])
def test_the_callable_gives_the_processors_tokens(policy, reward_model, mode):
    rows, settings = MODES[mode]
    expected = generate(policy, rows, logits_processor=[processor_with("auto", reward_model)], **settings)
    way_in = {"custom_generate": reward_guided_generate, "reward_model": reward_model, "beta": 2.0, "top_k": 6}
    assert torch.equal(generate(policy, rows, **way_in, **settings), expected)


@pytest.fixture(scope="module")
def seq2seq_policy():
    torch.manual_seed(4)
    config = T5Config(
        vocab_size=VOCAB_SIZE,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=1,
        num_heads=4,
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
        initializer_factor=4.0,
    )
    return T5ForConditionalGeneration(config).eval()


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True}], ids=["greedy", "beams", "sampling"])
def test_an_encoder_decoder_policy_is_steered_by_rewards_of_source_and_target(seq2seq_policy, reward_model, settings):
    class GuidedT5(RewardGuidedGenerationMixin, T5ForConditionalGeneration):
        pass

    ids = torch.tensor([[5, 6, 7, 8, EOS], [9, 10, EOS, PAD, PAD]])
    mask = (ids != PAD).long()
    sources = [[5, 6, 7, 8, EOS], [9, 10, EOS]]

    def run(policy, **more):
        torch.manual_seed(0)
        return policy.generate(ids, attention_mask=mask, max_new_tokens=6, **settings, **more)

    expected = run(
        seq2seq_policy, logits_processor=[processor_with("reference", reward_model, reward_prompts=sources)]
    )
    assert not torch.equal(expected, run(seq2seq_policy))
    fast = run(seq2seq_policy, logits_processor=[processor_with("siblings", reward_model, reward_prompts=sources)])
    assert torch.equal(fast, expected)
    guided = GuidedT5(seq2seq_policy.config).eval()
    guided.load_state_dict(seq2seq_policy.state_dict())
    assert torch.equal(run(guided, reward_model=reward_model, guidance_config=CONFIG), expected)
    called = run(
        seq2seq_policy,
        custom_generate=reward_guided_generate,
        reward_model=reward_model,
        guidance_config=CONFIG,
        reward_prompts=sources,
    )
    assert torch.equal(called, expected)


def test_the_reward_model_may_read_prompts_of_its_own(policy, reward_model):
    own = [[30, 31, *BATCH[0]], [32, *BATCH[1]], BATCH[2]]
    processors = [processor_with(name, reward_model, reward_prompts=own) for name in ("siblings", "reference")]
    tree, reference = (generate(policy, BATCH, logits_processor=[processor]) for processor in processors)
    assert torch.equal(tree, reference)
    assert not torch.equal(tree, generate(policy, BATCH, logits_processor=[processor_with("siblings", reward_model)]))


def test_generations_in_several_threads_do_not_meet(policy, reward_model):
    prompts = [[[5 + i, 6, 7]] for i in range(4)]
    expected = [
        generate(policy, rows, logits_processor=[processor_with("siblings", reward_model)]) for rows in prompts
    ]
    found = [None] * len(prompts)

    def work(place):
        processor = processor_with("siblings", reward_model)
        ids, mask = left_padded(prompts[place])
        for _ in range(3):
            found[place] = policy.generate(
                ids, attention_mask=mask, max_new_tokens=10, logits_processor=[processor], do_sample=False
            )

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_compiled_policy_is_steered_alike(policy, reward_model):
    compiled = tiny_policy()
    compiled.forward = torch.compile(compiled.forward, backend="eager")
    found = generate(compiled, BATCH, logits_processor=[processor_with("siblings", reward_model)])
    assert torch.equal(found, generate(policy, BATCH, logits_processor=[processor_with("siblings", reward_model)]))
