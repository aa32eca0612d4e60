"""Every kind of reward model steers generate(), in several modes, as whole texts or sequences would."""

from functools import partial

import pytest
import torch

from rgtg_hf import (
    RewardGuidanceConfig,
    RewardGuidedLogitsProcessor,
    reward_guided_generate,
)
from tests.scoring.text.tiny_tokenizers import byte_level, sentencepiece
from tests.tiny_models import GuidedLlama, tiny_encoder, tiny_policy, tiny_reward_model

TOKENIZER, OTHER, PADDED = byte_level(), sentencepiece(), byte_level(20)
MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
}


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(
        vocab_size=len(TOKENIZER),
        pad_token_id=TOKENIZER.pad_token_id,
        bos_token_id=TOKENIZER.bos_token_id,
        eos_token_id=TOKENIZER.eos_token_id,
    )


@pytest.fixture(scope="module")
def inputs():
    TOKENIZER.padding_side = "left"
    return TOKENIZER(["the cat", "a dog sat on the mat"], return_tensors="pt", padding=True)


def run(policy, inputs, seed=0, **settings):
    torch.manual_seed(seed)
    return policy.generate(
        input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=8, **settings
    )


def counts_of_a(prompts, responses):
    return [float(response.count("a")) for response in responses]


def checksum(prompts, responses):
    return [sum(map(ord, prompt + response)) % 7 / 3 for prompt, response in zip(prompts, responses, strict=True)]


def kinds():
    own = tiny_reward_model(vocab_size=len(TOKENIZER))
    other = tiny_reward_model(vocab_size=len(OTHER))
    return {
        "same tokenizer": {"reward_model": own, "reward_tokenizer": TOKENIZER},
        "another tokenizer": {"reward_model": other, "reward_tokenizer": OTHER},
        "encoder": {"reward_model": tiny_encoder(len(PADDED)), "reward_tokenizer": PADDED},
        "function": {"reward_model": checksum},
        "several": {
            "reward_model": [own, other, counts_of_a],
            "reward_tokenizer": [TOKENIZER, OTHER, None],
            "weights": [1.0, 0.5, -0.5],
        },
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", kinds())
def test_every_kind_equals_its_reference_in_every_way_in(policy, inputs, kind, mode):
    arguments, config = kinds()[kind], RewardGuidanceConfig(beta=2.0, top_k=6)
    slow = RewardGuidanceConfig(beta=2.0, top_k=6, scorer="reference")
    processors = [
        RewardGuidedLogitsProcessor(**arguments, tokenizer=TOKENIZER, guidance_config=each) for each in (config, slow)
    ]
    found, expected = (run(policy, inputs, logits_processor=[each], **MODES[mode]) for each in processors)
    assert torch.equal(found, expected)
    assert not torch.equal(found, run(policy, inputs, **MODES[mode]))
    called = run(
        policy,
        inputs,
        custom_generate=partial(reward_guided_generate, tokenizer=TOKENIZER),
        guidance_config=config,
        **arguments,
        **MODES[mode],
    )
    assert torch.equal(called, expected)


def test_a_tokenizer_that_generate_keeps_to_itself_is_asked_for_where_it_arrives(policy, inputs):
    with pytest.raises(ValueError, match=r"partial\(reward_guided_generate, tokenizer=tokenizer\)"):
        run(
            policy,
            inputs,
            custom_generate=reward_guided_generate,
            reward_model=counts_of_a,
            tokenizer=TOKENIZER,
        )


def test_the_mixin_takes_the_tokenizer_of_generate(policy, inputs):
    guided = GuidedLlama(policy.config).eval()
    guided.load_state_dict(policy.state_dict())
    arguments = kinds()["several"]
    processor = RewardGuidedLogitsProcessor(beta=2.0, tokenizer=TOKENIZER, **arguments)
    expected = run(policy, inputs, logits_processor=[processor])
    assert torch.equal(run(guided, inputs, beta=2.0, tokenizer=TOKENIZER, **arguments), expected)


def test_a_negative_weight_steers_away(policy, inputs):
    def mean_count(weight):
        processor = RewardGuidedLogitsProcessor(
            [counts_of_a], beta=3.0, top_k=20, tokenizer=TOKENIZER, weights=[weight]
        )
        output = run(policy, inputs, logits_processor=[processor], do_sample=True, num_return_sequences=8)
        texts = TOKENIZER.batch_decode(output[:, inputs["input_ids"].shape[1] :])
        return sum(counts_of_a(texts, texts)) / len(texts)

    assert mean_count(1.0) > mean_count(0.0) > mean_count(-1.0) - 1e-9
    assert mean_count(1.0) > mean_count(-1.0)


def test_a_padded_output_layer_with_the_same_tokenizer_steers(inputs):
    policy = tiny_policy(vocab_size=len(TOKENIZER) + 8, pad_token_id=TOKENIZER.pad_token_id)
    reward_model = tiny_reward_model(vocab_size=len(TOKENIZER))
    with pytest.raises(ValueError, match="Pass both tokenizers"):
        run(policy, inputs, logits_processor=[RewardGuidedLogitsProcessor(reward_model)])
    processor = RewardGuidedLogitsProcessor(
        reward_model, beta=2.0, top_k=0, tokenizer=TOKENIZER, reward_tokenizer=TOKENIZER
    )
    output = run(policy, inputs, logits_processor=[processor])
    assert int(output.max()) < len(TOKENIZER)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward_model": counts_of_a}, "reads text: pass the policy's tokenizer"),
        ({"reward_model": [counts_of_a], "tokenizer": TOKENIZER, "weights": [1.0, 2.0]}, "weights"),
        ({"reward_model": [], "tokenizer": TOKENIZER}, "reward"),
        (
            {"reward_model": tiny_encoder(len(PADDED)), "tokenizer": TOKENIZER, "reward_tokenizer": OTHER},
            "has no pad token",
        ),
        ({"reward_model": tiny_encoder(len(PADDED))}, "pass the policy's tokenizer and its own"),
        ({"reward_model": lambda prompts, responses: [0.0], "tokenizer": TOKENIZER}, "reward"),
    ],
)
def test_kinds_that_cannot_work_are_refused_in_words(policy, inputs, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(policy, inputs, logits_processor=[RewardGuidedLogitsProcessor(**arguments)])
