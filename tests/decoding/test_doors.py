"""Every setting, at every way into `generate()`, gives the scores of the law, computed the slow way."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch.testing import assert_close
from transformers import GenerationConfig, LlamaForCausalLM

from rgtg_hf import (
    RewardGuidanceConfig,
    RewardGuidedLogitsProcessor,
    reward_guided_generate,
    steering,
)
from rgtg_hf.config import resolve_guidance
from rgtg_hf.decoding.hub import generate_by_name
from rgtg_hf.serving.batch import GuidedBatch
from rgtg_hf.serving.rows import make_row_scorer
from rgtg_hf.serving.settings import requested_guidance, resolved_request
from tests.reliability.law_oracle import increments_of_sequences, law
from tests.test_config import OF_A_STEP, OTHER_VALUES
from tests.tiny_models import left_padded, tiny_next_token_model, tiny_reward_model, tiny_steering_head

PROMPTS = [[5, 6, 7, 8], [9, 10]]


@pytest.fixture(scope="module")
def policy(guided_policy):
    return guided_policy


@contextmanager
def by_processor(policy, model, **settings):
    yield {"logits_processor": [RewardGuidedLogitsProcessor(model, **settings)]}


@contextmanager
def by_mixin(policy, model, **settings):
    yield {"reward_model": model, **settings}


@contextmanager
def by_callable(policy, model, **settings):
    yield {"custom_generate": reward_guided_generate, "reward_model": model, **settings}


@contextmanager
def by_steering(policy, model, beta=None, guidance_config=None, **settings):
    with steering(policy, [(model, beta)], guidance_config=guidance_config, **settings) as processor:
        yield {"logits_processor": [processor]}


DOORS = {"processor": by_processor, "mixin": by_mixin, "callable": by_callable, "steering": by_steering}
MODELS = {"reward model": lambda policy: tiny_reward_model(), "head": tiny_steering_head}
CASES = [(door, kind) for door in DOORS for kind in MODELS if (door, kind) != ("steering", "reward model")]


def assert_obeys_the_law(run, model, config):
    ids, mask = left_padded(PROMPTS)
    plain = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    output = run(input_ids=ids, attention_mask=mask, output_scores=True, output_logits=True, **plain)
    increments = increments_of_sequences(model)
    for step, (scores, logits) in enumerate(zip(output.scores, output.logits, strict=True)):
        for row, prompt in enumerate(PROMPTS):
            response = output.sequences[row, ids.shape[1] : ids.shape[1] + step].tolist()
            if 2 not in response:
                expected = law(logits[row], partial(increments, prompt, response), config)
                assert torch.equal(scores[row] > float("-inf"), expected > float("-inf"))
                # In greedy decoding, a constant per row is free.
                assert_close(scores[row].softmax(-1), expected.softmax(-1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", [*OF_A_STEP, "scorer"])
@pytest.mark.parametrize(("door", "kind"), CASES)
def test_every_setting_works_in_a_config_object(policy, door, kind, name):
    model = MODELS[kind](policy)
    given = RewardGuidanceConfig(**{"beta": 2.0, name: OTHER_VALUES[name]})
    with DOORS[door](policy, model, guidance_config=given) as arguments:
        run = partial(LlamaForCausalLM.generate, policy) if door != "mixin" else policy.generate
        assert_obeys_the_law(partial(run, **arguments), model, resolve_guidance({}, given).config)


@pytest.mark.parametrize("name", [*OF_A_STEP, "scorer"])
@pytest.mark.parametrize(("door", "kind"), CASES)
def test_every_setting_is_an_argument_that_wins_over_the_object(policy, door, kind, name):
    if door in ("mixin", "callable") and name in ("top_p", "min_p"):
        pytest.skip("there it is the argument of generate() for its own sampling")
    model, settings = MODELS[kind](policy), {"beta": 2.0, name: OTHER_VALUES[name]}
    other = RewardGuidanceConfig(beta=-1.0, top_k=3, top_p=0.2, min_p=0.9, min_entropy=3.0, max_increment=0.01)
    with DOORS[door](policy, model, guidance_config=other, **settings) as arguments:
        run = partial(LlamaForCausalLM.generate, policy) if door != "mixin" else policy.generate
        assert_obeys_the_law(partial(run, **arguments), model, resolve_guidance(settings, other).config)


@pytest.mark.parametrize("name", [*OF_A_STEP, "scorer"])
@pytest.mark.parametrize(("door", "kind"), [*CASES, ("by name", "reward model"), ("by name", "head")])
def test_every_setting_is_read_from_the_file_beside_the_reward_model(policy, door, kind, name, tmp_path):
    MODELS[kind](policy).save_pretrained(tmp_path)
    saved = RewardGuidanceConfig(**{"beta": 2.0, name: OTHER_VALUES[name]})
    saved.save_pretrained(tmp_path)
    model = type(MODELS[kind](policy)).from_pretrained(tmp_path)
    if kind == "head":
        model.attach(policy)
    config = resolve_guidance({}, saved).config
    if door == "by name":
        return assert_obeys_the_law(partial(generate_by_name, policy, str(tmp_path)), model, config)
    with DOORS[door](policy, model) as arguments:
        run = partial(LlamaForCausalLM.generate, policy) if door != "mixin" else policy.generate
        return assert_obeys_the_law(partial(run, **arguments), model, config)


@pytest.mark.parametrize("name", ["beta", "min_entropy", "max_increment", "max_step_kl", "scorer"])
@pytest.mark.parametrize(("door", "kind"), [case for case in CASES if case[0] != "processor"])
def test_every_setting_is_read_from_a_generation_config(policy, door, kind, name, monkeypatch):
    """A processor, which does not see the policy, is the one way in without it."""
    model, settings = MODELS[kind](policy), {"beta": 2.0, name: OTHER_VALUES[name]}
    monkeypatch.setattr(policy, "generation_config", GenerationConfig(pad_token_id=0, eos_token_id=2, **settings))
    with DOORS[door](policy, model) as arguments:
        run = partial(LlamaForCausalLM.generate, policy) if door != "mixin" else policy.generate
        assert_obeys_the_law(partial(run, **arguments), model, resolve_guidance(settings).config)


@pytest.mark.parametrize(("door", "kind"), [case for case in CASES if case[0] in ("mixin", "callable")])
def test_an_argument_wins_over_a_generation_config(policy, door, kind, monkeypatch):
    model, given = MODELS[kind](policy), GenerationConfig(beta=-1.0, pad_token_id=0, eos_token_id=2)
    with DOORS[door](policy, model, beta=2.0) as arguments:
        run = partial(LlamaForCausalLM.generate, policy) if door != "mixin" else policy.generate
        run = partial(run, generation_config=given, **arguments)
        assert_obeys_the_law(run, model, resolve_guidance({"beta": 2.0}).config)


@pytest.mark.parametrize("name", OF_A_STEP)
@pytest.mark.parametrize("kind", [tiny_reward_model, tiny_next_token_model])
def test_every_setting_can_be_that_of_a_servers_request(policy, kind, name):
    """Settings that do not guide a step are refused in one sentence: see tests/serving/test_settings.py."""
    model, settings = kind(), {"beta": 2.0, name: OTHER_VALUES[name]}
    batch = GuidedBatch(make_row_scorer(model))
    batch.join("other", resolve_guidance({"beta": -1.0, "top_k": 3}).config)
    batch.join("request", resolved_request(requested_guidance({"rgtg": settings}), resolve_guidance({}).config))
    logits = torch.stack([policy(torch.tensor([prompt])).logits[0, -1].detach() for prompt in PROMPTS])
    guided = batch.guide(["other", "request"], PROMPTS, logits)[1]
    expected = law(
        logits[1], partial(increments_of_sequences(model), PROMPTS[1], []), resolve_guidance(settings).config
    )
    assert torch.equal(guided > float("-inf"), expected > float("-inf"))
    assert_close(guided.softmax(-1), expected.softmax(-1), atol=1e-3, rtol=1e-3)
