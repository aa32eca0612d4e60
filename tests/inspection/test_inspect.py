"""What an inspection says is what the models say, recomputed from its texts."""

import math

import pytest
import torch
from torch.testing import assert_close

import rgtg_hf
from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from rgtg_hf.config import resolve_guidance
from rgtg_hf.decoding.search_divergence import best_of_n_divergence_bound
from rgtg_hf.inspection.inspect import encode_prompt, trace_response
from rgtg_hf.inspection.page import summary
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from tests.tiny_models import tiny_reward_model

SETTINGS = {"beta": 2.0, "top_k": 5, "max_new_tokens": 8}


@pytest.fixture
def found(policy, tokenizer, reward_model):
    return rgtg_hf.inspect(policy, tokenizer, reward_model, "Hi!", **SETTINGS)


def generate(policy, tokenizer, reward_model, beta, seed=0, **settings):
    ids = encode_prompt(tokenizer, "Hi!")
    processor = RewardGuidedLogitsProcessor(reward_model, beta=beta, top_k=5)
    torch.manual_seed(seed)
    return policy.generate(
        ids, logits_processor=[processor], max_new_tokens=8, **{"do_sample": True, "top_k": 0} | settings
    )


@torch.no_grad()
@pytest.mark.parametrize("side", ["guided", "unguided"])
def test_rewards_are_the_prefix_rewards_of_what_generate_writes(side, found, policy, tokenizer, reward_model):
    trace, beta = getattr(found, side), 2.0 if side == "guided" else 0.0
    output = generate(policy, tokenizer, reward_model, beta)
    prompt_length = encode_prompt(tokenizer, "Hi!").shape[1]
    assert "".join(step.text for step in trace.steps) == tokenizer.decode(output[0, prompt_length:])
    rewards = prefix_rewards(reward_model, output)[0, prompt_length - 1 :]
    assert_close(torch.tensor(trace.rewards), rewards[1:] - rewards[0], atol=1e-4, rtol=1e-4)


def test_probabilities_of_candidates_follow_the_law(found):
    for step in found.guided.steps:
        policy, reward, guided = (
            torch.tensor([getattr(c, name) for c in step.candidates]) for name in ("policy", "reward", "guided")
        )
        expected = (policy.log() + 2.0 * reward).softmax(-1)
        assert_close(guided, expected, atol=1e-4, rtol=1e-4)
        assert step.kl == pytest.approx(float((guided * (guided / policy).log()).sum()), abs=1e-4)
        assert [c.reward for c in step.candidates if c.chosen] == [pytest.approx(step.reward, abs=1e-5)]


def test_the_unguided_side_does_not_diverge(found):
    assert found.unguided.divergences == [0.0] * len(found.unguided.steps)
    assert all(c.policy == c.guided for step in found.unguided.steps for c in step.candidates)


def test_the_seed_decides_and_the_global_random_state_stays(policy, tokenizer, reward_model, found):
    before = torch.random.get_rng_state()
    again = rgtg_hf.inspect(policy, tokenizer, reward_model, "Hi!", **SETTINGS)
    other = rgtg_hf.inspect(policy, tokenizer, reward_model, "Hi!", seed=1, **SETTINGS)
    assert torch.equal(before, torch.random.get_rng_state())
    assert found.guided.steps == again.guided.steps
    assert found.unguided.text != other.unguided.text


def test_greedy_is_greedy(policy, tokenizer, reward_model):
    found = rgtg_hf.inspect(policy, tokenizer, reward_model, "Hi!", do_sample=False, **SETTINGS)
    for trace in (found.guided, found.unguided):
        for step in trace.steps:
            assert max(step.candidates, key=lambda c: c.guided).chosen


def test_messages_are_prompts_too(policy, tokenizer, reward_model):
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi!"}]
    found = rgtg_hf.inspect(policy, tokenizer, reward_model, messages, top_k=5, max_new_tokens=2)
    assert found.prompt == "system: Be kind.\nuser: Hi!"


@torch.no_grad()
@pytest.mark.parametrize("search", ["best", "resample", "halve", "none"])
def test_a_search_is_shown_with_its_rewards_and_its_bound(search, policy, tokenizer, reward_model):
    config = RewardGuidanceConfig(search=search, num_rows=3, block_size=3, beta=2.0, top_k=5)
    shown = []
    trace = trace_response(
        policy, tokenizer, reward_model, encode_prompt(tokenizer, "Hi!"), resolve_guidance({}, config).config,
        do_sample=True, max_new_tokens=8, on_step=lambda trace: shown.append(trace.text),
    )  # fmt: skip
    torch.manual_seed(0)
    found = rgtg_hf.inspect(policy, tokenizer, reward_model, "Hi!", guidance_config=config, max_new_tokens=8)
    ids = encode_prompt(tokenizer, "Hi!")
    torch.manual_seed(0)
    output = policy.generate(
        ids, custom_generate=rgtg_hf.reward_guided_generate, reward_model=reward_model, guidance_config=config,
        max_new_tokens=8, do_sample=True, return_dict_in_generate=True,
    )  # fmt: skip
    response = output.sequences[0, ids.shape[1] :]
    assert "".join(step.text for step in found.guided.steps) == tokenizer.decode(response)
    assert found.guided.rewards[-1] == pytest.approx(output.rewards.item(), abs=1e-4)
    bound = {
        "best": best_of_n_divergence_bound(3, -(-len(response) // 3)),
        "resample": max(0.0, 2.0 * output.rewards.item() - (output.log_normalizer or torch.zeros(1)).item()),
        "halve": math.log(3),
        "none": best_of_n_divergence_bound(3),
    }[search]
    assert found.guided.divergence_bound == pytest.approx(bound, abs=1e-4)
    assert "KL at most" in summary(found.guided)
    assert "Cumulative KL" not in found.to_html()
    assert found.unguided.divergence_bound is None
    assert found.unguided.steps == rgtg_hf.inspect(policy, tokenizer, reward_model, "Hi!", **SETTINGS).unguided.steps
    assert trace.text.startswith(shown[-1])


@pytest.mark.parametrize(
    ("change", "says"),
    [({"prompt": " "}, "prompt is empty"), ({"max_new_tokens": 0}, "at least 1"), ({"top_k": -1}, "`top_k` is -1")],
)
def test_mistakes_are_told(change, says, policy, tokenizer, reward_model):
    arguments = {"prompt": "Hi!"} | change
    with pytest.raises(ValueError, match=says):
        rgtg_hf.inspect(policy, tokenizer, reward_model, **arguments)


def test_generation_can_be_followed_while_it_runs(policy, tokenizer, reward_model):
    lengths = []
    trace = trace_response(
        policy,
        tokenizer,
        reward_model,
        encode_prompt(tokenizer, "Hi!"),
        resolve_guidance({"top_k": 5}).config,
        do_sample=False,
        max_new_tokens=4,
        on_step=lambda trace: lengths.append(len(trace.steps)),
    )
    assert lengths == list(range(1, len(trace.steps) + 1))
    assert trace.tokens_per_second > 0


def test_it_is_shown_in_three_short_lines(found):
    first, *traces = repr(found).splitlines()
    assert first.startswith("Inspection(prompt='Hi!', policy=")
    assert "beta=2, top_k=5, search='tokens', seed=0" in first
    assert [line.split("=")[0].strip() for line in traces] == ["guided", "unguided"]
    assert f"{len(found.guided.steps)} tokens, reward {found.guided.rewards[-1]:+.2f}, KL" in traces[0]
    assert all(len(line) < 150 for line in (first, *traces))


@torch.no_grad()
@pytest.mark.parametrize("search", ["tokens", "best"])
def test_a_value_model_tells_how_likely_each_return_is_after_every_token(policy, tokenizer, search):
    values = tiny_reward_model(vocab_size=len(tokenizer), num_labels=5, value_range=[-1.0, 1.0])
    config = RewardGuidanceConfig(beta=2.0, top_k=5, search=search, num_rows=2, block_size=4)
    found = rgtg_hf.inspect(policy, tokenizer, values, "Hi!", guidance_config=config, max_new_tokens=8)
    for trace in (found.guided, found.unguided):
        assert trace.return_range == (-1.0, 1.0)
        returns = torch.tensor([step.returns for step in trace.steps])
        means = returns @ torch.linspace(-1, 1, 5)
        assert_close(means.diff(), torch.tensor(trace.rewards).diff(), atol=1e-5, rtol=1e-4)
    assert found.to_html().count('rgtg-returns"') == len(found.guided.steps) + len(found.unguided.steps)
