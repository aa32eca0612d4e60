"""The mixin and the callable: what they find out by themselves, what they refuse, and streamers."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LlamaConfig,
    LlamaModel,
    StaticCache,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.generation.streamers import BaseStreamer

from rgtg_hf import (
    RewardGuidanceConfig,
    RewardGuidedGenerationMixin,
    RewardGuidedLogitsProcessor,
    reward_guided_generate,
)
from rgtg_hf.compat import cache_argument
from rgtg_hf.decoding.generation import _uses_cuda_graph
from tests.decoding.test_modes import BATCH, SINGLE, generate
from tests.tiny_models import EOS, PAD, VOCAB_SIZE, left_padded, tiny_reward_model


def test_the_callable_refuses_drafts_in_words(policy, reward_model):
    with pytest.raises(ValueError, match="cannot run assisted generation"):
        generate(
            policy,
            SINGLE,
            custom_generate=reward_guided_generate,
            reward_model=reward_model,
            prompt_lookup_num_tokens=3,
        )


def test_the_mixin_and_the_callable_find_the_mask_where_padding_cannot_be_told(policy, guided_policy):
    reward_model = tiny_reward_model(bos_token_id=PAD)
    mixin = generate(guided_policy, BATCH, reward_model=reward_model, beta=2.0)
    called = generate(policy, BATCH, custom_generate=reward_guided_generate, reward_model=reward_model, beta=2.0)
    told = RewardGuidedLogitsProcessor(reward_model, beta=2.0, attention_mask=left_padded(BATCH)[1])
    expected = generate(policy, BATCH, logits_processor=[told])
    assert torch.equal(mixin, expected)
    assert torch.equal(called, expected)


def test_the_mixin_without_reward_model_is_plain_generate(policy, guided_policy):
    assert torch.equal(generate(guided_policy, BATCH, top_k=3), generate(policy, BATCH, top_k=3))
    with pytest.raises(ValueError, match="pass `reward_model=`"):
        generate(guided_policy, BATCH, beta=1.0)


def test_the_callable_without_reward_model_is_refused(policy):
    with pytest.raises(ValueError, match="pass `reward_model=`"):
        generate(policy, BATCH, custom_generate=reward_guided_generate)


class Collect(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


def test_streamers_get_the_steered_tokens(policy, guided_policy, reward_model):
    steered = {"reward_model": reward_model, "beta": 2.0}
    streamers = [Collect(), Collect(), Collect()]
    sequences = [
        generate(
            policy,
            SINGLE,
            logits_processor=[RewardGuidedLogitsProcessor(reward_model, beta=2.0)],
            streamer=streamers[0],
        ),
        generate(guided_policy, SINGLE, streamer=streamers[1], **steered),
        generate(policy, SINGLE, custom_generate=partial(reward_guided_generate, streamer=streamers[2]), **steered),
    ]
    for streamer, sequence in zip(streamers, sequences, strict=True):
        assert streamer.tokens == sequence[0].tolist()
        assert streamer.ended


def test_continuous_batching_is_refused(guided_policy, reward_model):
    with pytest.raises(ValueError, match="cannot be steered"):
        guided_policy.generate_batch([[5, 6]], reward_model=reward_model)
    with pytest.raises(ValueError, match="drops logits processors silently"):
        generate(guided_policy, BATCH, reward_model=reward_model, cache_implementation="paged")
    assert RewardGuidedLogitsProcessor.supports_continuous_batching is False


@pytest.fixture(scope="module")
def seq2seq_policies():
    """An encoder-decoder policy, plain and with the mixin."""

    class GuidedT5(RewardGuidedGenerationMixin, T5ForConditionalGeneration):
        pass

    sizes = {"vocab_size": VOCAB_SIZE, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T5Config(**sizes, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD)
    return T5ForConditionalGeneration(config).eval(), GuidedT5(config).eval()


@pytest.mark.parametrize("inputs", ["encoder_outputs", "inputs_embeds"])
def test_a_source_text_that_the_reward_model_cannot_read_is_asked_for(seq2seq_policies, reward_model, inputs):
    plain, guided = seq2seq_policies
    source = torch.tensor([[5, 6, 7, EOS]])
    given = {"inputs_embeds": plain.get_input_embeddings()(source)}
    if inputs == "encoder_outputs":
        given = {"encoder_outputs": plain.encoder(source)}
    with pytest.raises(ValueError, match="pass it as `reward_prompts=`"):
        guided.generate(**given, reward_model=reward_model, max_new_tokens=3)
    with pytest.raises(ValueError, match="pass it as `reward_prompts=`"):
        plain.generate(**given, custom_generate=reward_guided_generate, reward_model=reward_model, max_new_tokens=3)
    told = {"reward_model": reward_model, "reward_prompts": [[5, 6, 7, EOS]], "max_new_tokens": 3}
    called = plain.generate(**given, custom_generate=reward_guided_generate, **told)
    assert called.shape[0] == 1


def test_what_is_no_streamer_is_refused_by_its_type(policy, reward_model):
    with pytest.raises(TypeError, match="`streamer` is a str"):
        generate(
            policy,
            SINGLE,
            custom_generate=partial(reward_guided_generate, streamer="stdout"),
            reward_model=reward_model,
        )


def test_the_callable_says_how_it_gets_the_tokenizer_that_generate_keeps(policy, reward_model):
    way_in = {"custom_generate": reward_guided_generate, "reward_model": reward_model}
    with pytest.raises(ValueError, match=r"functools\.partial"):
        generate(policy, SINGLE, **way_in, reward_prompts=["a text"])


@pytest.mark.parametrize("way_in", ["mixin", "callable", "processor"])
def test_every_way_in_hands_on_the_wish_for_a_cuda_graph(policy, guided_policy, way_in, caplog):
    # A model of this kind cannot be recorded, and that is said.
    reward_model = tiny_reward_model("bloom")
    wish = {"reward_model": reward_model, "use_cuda_graph": True}
    if way_in == "mixin":
        generate(guided_policy, BATCH, **wish)
    elif way_in == "callable":
        generate(policy, BATCH, custom_generate=reward_guided_generate, **wish)
    else:
        generate(policy, BATCH, logits_processor=[RewardGuidedLogitsProcessor(**wish)])
    assert "The scorer 'expand' runs without a CUDA graph" in caplog.text
    with pytest.raises(TypeError, match="True or False"):
        generate(guided_policy, BATCH, reward_model=reward_model, use_cuda_graph="no")


def test_a_search_says_that_it_needs_no_cuda_graph(guided_policy, reward_model, caplog):
    settings = {"search": "best", "num_rows": 2, "block_size": 4, "do_sample": True}
    generate(guided_policy, BATCH, reward_model=reward_model, use_cuda_graph=True, **settings)
    assert "once per block, without a CUDA graph" in caplog.text


@pytest.mark.parametrize(
    ("device", "arguments", "expected"),
    [
        ("cuda", {"cache_implementation": "static"}, True),
        ("cuda", {"cache_implementation": "offloaded_static"}, True),
        ("cuda", {cache_argument(LlamaModel.forward): StaticCache(LlamaConfig(), max_cache_len=8)}, True),
        ("cuda", {cache_argument(LlamaModel.forward): DynamicCache()}, False),
        ("cuda", {}, False),
        ("cpu", {"cache_implementation": "static"}, False),
    ],
)
def test_graphs_are_used_by_default_on_a_gpu_where_the_cache_is_static(device, arguments, expected):
    policy = SimpleNamespace(device=torch.device(device))
    guidance, settings = RewardGuidanceConfig(), GenerationConfig()
    assert _uses_cuda_graph(policy, None, guidance, settings, arguments) is expected
    if "cache_implementation" in arguments:
        assert _uses_cuda_graph(policy, None, guidance, GenerationConfig(**arguments), {}) is expected
    assert _uses_cuda_graph(policy, not expected, guidance, settings, arguments) is not expected
