"""Every option of `generate()` at every way in: what an independent computation gives, or one clear sentence.

The independent computation is plain `generate()` with the law as a logits processor: it reads whole sequences, row by
row, and shares no code with the package.
"""

import warnings
from functools import partial

import pytest
import torch
from torch.testing import assert_close
from transformers import GenerationConfig, LlamaForCausalLM, LogitsProcessor, WatermarkingConfig

from rgtg_hf import RewardGuidanceConfig
from rgtg_hf.config import resolve_guidance
from rgtg_hf.decoding.hub import generate_by_name
from tests.decoding.test_doors import CASES, DOORS, MODELS
from tests.reliability.law_oracle import increments_of_sequences, law
from tests.scoring.text.tiny_tokenizers import byte_level
from tests.tiny_models import EOS, left_padded, tiny_policy
from tests.versions import since

PROMPTS = [[5, 6, 7, 8, 5, 6], [9, 10]]
ONE_PROMPT = [[8, 9, 10, 11, 9, 10]]
CONFIG = RewardGuidanceConfig(beta=2.0, top_k=8)
SAMPLED = {"do_sample": True}
BEAMS = {"num_beams": 3}
# The option's name in GenerationConfig, or `name: variant`: arguments of generate().
OPTIONS = {
    "do_sample": SAMPLED,
    "temperature": SAMPLED | {"temperature": 0.6},
    "top_p": SAMPLED | {"top_p": 0.7},
    "min_p": SAMPLED | {"min_p": 0.2},
    "top_h": SAMPLED | {"top_h": 0.4},
    "typical_p": SAMPLED | {"typical_p": 0.6},
    "epsilon_cutoff": SAMPLED | {"epsilon_cutoff": 0.1},
    "eta_cutoff": SAMPLED | {"eta_cutoff": 0.2},
    "num_return_sequences": SAMPLED | {"num_return_sequences": 3},
    "num_beams": BEAMS,
    "num_beams: sampled": BEAMS | SAMPLED,
    "length_penalty": BEAMS | {"length_penalty": -1.0},
    "early_stopping": BEAMS | {"early_stopping": True},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.5},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[7], [9, 10], [12]]},
    "sequence_bias": {"sequence_bias": [[[7], 4.0], [[9, 10], -3.0]]},
    "suppress_tokens": {"suppress_tokens": [7, 9, 12, 20, 21]},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(20))},
    "forced_bos_token_id": {"forced_bos_token_id": 3},
    "forced_eos_token_id": {"forced_eos_token_id": EOS},
    "min_length": {"min_length": 10, "eos_token_id": list(range(2, 24))},
    "min_new_tokens": {"min_new_tokens": 4, "eos_token_id": list(range(2, 24))},
    "stop_strings": {"stop_strings": ["s", "t"], "tokenizer": byte_level(merges=0)},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (1, 1.5)},
    "remove_invalid_values": {"remove_invalid_values": True},
    "renormalize_logits": {"renormalize_logits": True},
    "renormalize_logits: beams": BEAMS | {"renormalize_logits": True, "temperature": 0.6} | SAMPLED,
    "guidance_scale": {"guidance_scale": 1.7},
    "watermarking_config": {"watermarking_config": WatermarkingConfig(bias=3.0)},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": lambda row, ids: list(range(3, 30 - len(ids)))},
    "use_cache": {"use_cache": False},
    "cache_implementation": {"cache_implementation": "static"},
    "cache_implementation: beams": BEAMS | {"cache_implementation": "static"},
    "disable_compile": {"cache_implementation": "static", "disable_compile": True},
    "max_cache_len": {"cache_implementation": "static", "max_cache_len": 64},
    "prefill_chunk_size": {"prefill_chunk_size": 2},
    "prefill_chunk_size: sampled": SAMPLED | {"prefill_chunk_size": 3},
    "max_length": {"max_length": 9, "max_new_tokens": None},
    "eos_token_id": {"eos_token_id": [EOS, *range(3, 12)]},
    "pad_token_id": {"pad_token_id": 3},
    "output_attentions": {"output_attentions": True},
    "output_hidden_states": {"output_hidden_states": True},
    "output_logits": {"output_logits": True},
    "assistant_model": {"assistant_model": tiny_policy(seed=3), "prompts": ONE_PROMPT},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3, "prompts": ONE_PROMPT},
    "assistant_early_exit": {"assistant_early_exit": 1, "prompts": ONE_PROMPT},
}
# Options of GenerationConfig without a row above, and why.
NOT_IN_THE_TABLE = {
    "settings of assisted decoding, which has its rows": {
        "assistant_confidence_threshold", "assistant_ensemble_weight", "assistant_lookbehind", "is_assistant",
        "max_matching_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule", "speculation_type",
        "target_lookbehind",
    },
    "generate() refuses them itself, or asks for code from the hub": {
        "constraints", "diversity_penalty", "dola_layers", "force_words_ids", "low_memory", "num_beam_groups",
        "penalty_alpha",
    },
    "of models with an encoder": {"decoder_start_token_id"},
    "token healing rewrites the prompt before anything is scored": {"token_healing"},
    "needs a policy with heads for further tokens": {"use_mtp"},
    "the argument for candidates at three ways in, and a filter after guidance at two: test_step.py, test_doors.py": {
        "top_k",
    },
    "about the output, in every row": {"output_scores", "return_dict_in_generate", "max_new_tokens"},
    "about no score, order or pass": {
        "bos_token_id", "cache_config", "compile_config", "continuous_batching_config", "max_time",
        "transformers_version",
    },
}  # fmt: skip
# Way in, option: what the sentence says.
REFUSED = {
    ("callable", "prompt_lookup_num_tokens"): "cannot run assisted generation",
    ("callable", "assistant_early_exit"): "cannot run assisted generation",
    ("callable", "stop_strings"): "could not locate a tokenizer",  # generate() takes a callable's tokenizer away
    ("steering", "assistant_model"): "needs one forward pass of the policy per step",
    ("steering", "prompt_lookup_num_tokens"): "needs one forward pass of the policy per step",
    ("steering", "assistant_early_exit"): "needs one forward pass of the policy per step",
}


class SlowGuidance(LogitsProcessor):
    """The law, row by row."""

    def __init__(self, model, prompts):
        self.increments, self.prompts = increments_of_sequences(model), prompts
        self.config = resolve_guidance({}, CONFIG).config

    def __call__(self, input_ids, scores):
        width, copies = max(map(len, self.prompts)), len(input_ids) // len(self.prompts)
        rows = enumerate(input_ids[:, width:].tolist())
        return torch.stack(
            [law(scores[i], partial(self.increments, self.prompts[i // copies], own), self.config) for i, own in rows]
        )


def arguments_of(option):
    arguments = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True} | OPTIONS[option]
    ids, mask = left_padded(arguments.pop("prompts", PROMPTS))
    return {"input_ids": ids, "attention_mask": mask} | arguments


@pytest.fixture(scope="module")
def policy(guided_policy):
    return guided_policy


ALL_WAYS_IN = [*CASES, *(("by name", kind) for kind in MODELS)]
# The others come to the same processors.
QUICK = [("processor", "reward model"), ("callable", "reward model"), ("steering", "head")]
WAYS_IN = [pytest.param(*way, marks=[] if way in QUICK else pytest.mark.slow) for way in ALL_WAYS_IN]


@pytest.mark.parametrize(
    "option",
    [
        pytest.param(option, marks=since("5.14", "it is not known") if option == "max_cache_len" else ())
        for option in OPTIONS
    ],
)
@pytest.mark.parametrize(("door", "kind"), WAYS_IN)
def test_an_option_gives_what_the_law_gives_or_a_sentence(policy, door, kind, option, tmp_path):
    model, arguments = MODELS[kind](policy), arguments_of(option)

    def run(generate, **more):
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return generate(**arguments, **more)

    def at_the_door():
        if door == "by name":
            model.save_pretrained(tmp_path)
            CONFIG.save_pretrained(tmp_path)
            return run(partial(generate_by_name, policy, str(tmp_path)))
        with DOORS[door](policy, model, guidance_config=CONFIG) as way_in:
            return run(policy.generate if door == "mixin" else partial(LlamaForCausalLM.generate, policy), **way_in)

    if (door, option) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[door, option]):
            at_the_door()
        return
    prompts = OPTIONS[option].get("prompts", PROMPTS)
    expected = run(partial(LlamaForCausalLM.generate, policy), logits_processor=[SlowGuidance(model, prompts)])
    found = at_the_door()
    assert torch.equal(found.sequences, expected.sequences)
    ends = torch.tensor(arguments.get("eos_token_id", [EOS]))
    for step, (one, other) in enumerate(zip(found.scores, expected.scores, strict=True)):
        if len(one) == len(found.sequences) and "num_beams" not in arguments:
            # Nobody reads the scores of a row that has ended.
            written = found.sequences[:, arguments["input_ids"].shape[1] :][:, :step]
            goes_on = ~torch.isin(written, ends).any(dim=1)
            one, other = one[goes_on], other[goes_on]
        assert torch.equal(one > -torch.inf, other > -torch.inf)
        assert_close(one.log_softmax(-1), other.log_softmax(-1), atol=1e-3, rtol=1e-3)


def test_no_option_is_left_unlisted():
    listed = {option.partition(":")[0] for option in OPTIONS}.union(*NOT_IN_THE_TABLE.values())
    assert {name for name in vars(GenerationConfig()) if not name.startswith("_")} <= listed
