"""A compiled policy is steered by heads to the tokens that it is steered to uncompiled."""

import contextlib
import gc

import pytest
import torch
from transformers import CompileConfig, LogitsProcessor

from rgtg_hf import RewardGuidedLogitsProcessor, reward_guided_generate, steering
from rgtg_hf.decoding.compiled_capture import watch_compiled
from tests.decoding.test_modes import BATCH, SINGLE, generate
from tests.tiny_models import tiny_policy, tiny_reward_model, tiny_steering_head
from tests.versions import since

IDS = torch.tensor([[5, 6, 7], [8, 9, 10]])
MODES = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beam search": {"num_beams": 3},
    "classifier-free guidance": {"guidance_scale": 1.5},
}


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    torch.compiler.reset()


def static_cache(backend="eager"):
    """`generate()` with a static cache compiles the policy on a GPU; this makes it do so anywhere."""
    config = CompileConfig(fullgraph=True, dynamic=False, backend=backend, mode=None)
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


def steered(policy, rows=BATCH, run=None, before=(), **settings):
    with steering(policy, [(tiny_steering_head(policy, 3), 2.0), (tiny_steering_head(policy, 4), 1.0)]) as processor:
        return generate(policy if run is None else run, rows, logits_processor=[*before, processor], **settings)


@pytest.mark.parametrize("mode", MODES)
@since("2.9", "a pass of transformers 5.5 does not compile", package="torch")
def test_a_static_cache_gives_the_eager_tokens(mode):
    policy = tiny_policy()
    expected = steered(policy, **MODES[mode])
    assert not torch.equal(expected, generate(policy, BATCH, **MODES[mode]))
    generate(policy, BATCH, **static_cache(), **MODES[mode])  # compiled before there was a head
    assert torch.equal(steered(policy, **static_cache(), **MODES[mode]), expected)


@pytest.mark.slow
def test_machine_code_gives_the_eager_tokens():
    policy = tiny_policy()
    assert torch.equal(steered(policy, **static_cache("inductor")), steered(policy))


def compiled_forward(policy):
    policy.forward = torch.compile(policy.forward, backend="eager")
    return policy


def compiled_module(policy):
    policy.compile(backend="eager")
    return policy


def optimized_module(policy):
    return torch.compile(policy, backend="eager")


@pytest.mark.parametrize(
    ("compiled", "mode"),
    [
        pytest.param(compiled_forward, "classifier-free guidance", marks=pytest.mark.slow),
        pytest.param(compiled_forward, "beam search", marks=pytest.mark.slow),
        pytest.param(compiled_module, "classifier-free guidance", marks=pytest.mark.slow),
        (optimized_module, "greedy"),
    ],
)
def test_a_policy_that_was_compiled_explicitly_gives_the_eager_tokens(compiled, mode):
    expected = steered(tiny_policy(), **MODES[mode])
    policy = tiny_policy()
    run = compiled(policy)
    generate(run, BATCH, **MODES[mode])
    assert torch.equal(steered(policy, run=run, **MODES[mode]), expected)


@since("2.10", "a pass of transformers 5.5 does not compile", package="torch")
def test_no_block_compiles_again_what_another_one_has_compiled():
    policy = tiny_policy()
    plain, expected = generate(policy, BATCH, **static_cache()), steered(policy, **static_cache())
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(steered(policy, **static_cache()), expected)
        assert torch.equal(generate(policy, BATCH, **static_cache()), plain)


def test_drafts_are_refused_as_without_compiling():
    with pytest.raises(ValueError, match="has not just read these prefixes"):
        steered(compiled_forward(tiny_policy()), SINGLE, prompt_lookup_num_tokens=3)


@pytest.mark.parametrize("way_in", ["mixin", "callable", "processor"])
@since("2.9", "a pass of transformers 5.5 does not compile", package="torch")
def test_a_head_at_every_door_with_a_static_cache(guided_policy, way_in):
    policy = guided_policy if way_in == "mixin" else tiny_policy()
    head = tiny_steering_head(policy, 3)
    arguments = {"reward_model": head, "beta": 2.0}
    if way_in == "processor":
        arguments = {"logits_processor": [RewardGuidedLogitsProcessor(head.attach(policy), beta=2.0)]}
    if way_in == "callable":
        arguments["custom_generate"] = reward_guided_generate
    expected = generate(policy, BATCH, **arguments)
    assert torch.equal(generate(policy, BATCH, **static_cache(), **arguments), expected)


@since("2.9", "a pass of transformers 5.5 does not compile", package="torch")
def test_siblings_beside_a_compiled_policy_as_with_an_eager_one(policy):
    reward_model = tiny_reward_model()
    processors = [RewardGuidedLogitsProcessor(reward_model, beta=2.0, use_cuda_graph=graph) for graph in (False, True)]
    expected, recorded = (generate(policy, BATCH, logits_processor=[one]) for one in processors)
    assert torch.equal(recorded, expected)
    for processor in processors:
        assert torch.equal(generate(policy, BATCH, logits_processor=[processor], **static_cache()), expected)


def test_a_policy_has_its_own_modules_and_names_inside_and_after():
    policy = tiny_policy()
    ends, names = (policy.get_input_embeddings(), policy.get_output_embeddings()), list(policy.state_dict())
    kinds, attributes = [type(end) for end in ends], [set(vars(end)) for end in ends]
    with watch_compiled(policy), watch_compiled(policy):
        assert (policy.get_input_embeddings(), policy.get_output_embeddings()) == ends
        for end, kind in zip(ends, kinds, strict=True):
            assert isinstance(end, kind)
            assert type(end) is not kind
        assert list(policy.state_dict()) == names
    assert [type(end) for end in ends] == kinds
    assert [set(vars(end)) for end in ends] == attributes


def test_blocks_of_one_policy_may_end_in_any_order():
    policy, first, second = tiny_policy(), contextlib.ExitStack(), contextlib.ExitStack()
    kind = type(policy.get_input_embeddings())
    first.enter_context(watch_compiled(policy))
    second.enter_context(watch_compiled(policy))
    first.close()
    assert type(policy.get_input_embeddings()) is not kind
    second.close()
    assert type(policy.get_input_embeddings()) is kind


def test_a_garbage_collection_between_steps_changes_nothing():
    policy = tiny_policy()
    expected = steered(policy)

    class Collect(LogitsProcessor):
        def __call__(self, input_ids, scores):
            gc.collect()
            return scores

    assert torch.equal(steered(policy, before=[Collect()]), expected)


@torch.no_grad()
def test_the_first_and_the_last_compiled_pass_are_taken_once():
    policy = tiny_policy()
    run = torch.compile(policy.forward, backend="eager")
    expected = [policy(ids, output_hidden_states=True).hidden_states[-1][:, -1] for ids in (IDS, IDS.flip(0))]
    with watch_compiled(policy) as passes, watch_compiled(policy) as others:
        run(IDS)
        ((ids, hidden),) = passes.take()
        assert torch.equal(ids, IDS)
        torch.testing.assert_close(hidden, expected[0])
        assert passes.take() == []
        assert len(others.take()) == 1
        for one in (IDS, IDS + 1, IDS.flip(0)):
            run(one)
        found = passes.take()
        assert [ids.tolist() for ids, _ in found] == [IDS.tolist(), IDS.flip(0).tolist()]
        for (_, hidden), one in zip(found, expected, strict=True):
            torch.testing.assert_close(hidden, one)
        policy(IDS)
        assert passes.take() == []
