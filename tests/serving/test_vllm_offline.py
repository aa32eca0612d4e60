"""Guided generation in vLLM's engine itself: what it gives is what the transformers route gives."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LogitsProcessor

from rgtg_hf import NextTokenRewardModel, RewardGuidedLogitsProcessor, steering
from tests.cli.conftest import byte_tokenizer
from tests.serving.conftest import engine, guided_engine

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

LENGTH = 12
EOS = 2


@pytest.fixture(scope="module", params=["siblings", "next-token"])
def guided(request, models):
    with guided_engine(models, request.param) as llm:
        yield llm, Alone(models, request.param)


class Alone:
    """The transformers route, one request at a time."""

    def __init__(self, models, reward_model):
        self.policy = AutoModelForCausalLM.from_pretrained(models / "policy")
        self.reward_model = AutoModelForSequenceClassification.from_pretrained(models / reward_model)

    def __call__(self, prompt, settings, length=LENGTH, **others):
        processors = [RewardGuidedLogitsProcessor(self.reward_model, **settings)] if settings is not None else []
        ids = self.policy.generate(
            torch.tensor([prompt]), logits_processor=processors, max_new_tokens=length, do_sample=False, **others
        )
        return ids[0, len(prompt) :].tolist()


def prompts(count, seed=0, longest=60):
    chance = random.Random(seed)
    return [[chance.randrange(3, 250) for _ in range(chance.randrange(1, longest))] for _ in range(count)]


def parameters(settings, length=LENGTH, **others):
    from vllm import SamplingParams

    extra = None if settings is None else {"rgtg": settings}
    return SamplingParams(temperature=0, max_tokens=length, extra_args=extra, **others)


def run(llm, prompts, settings, length=LENGTH):
    outputs = llm.generate(
        [{"prompt_token_ids": ids} for ids in prompts], [parameters(one, length) for one in settings], use_tqdm=False
    )
    return [list(output.outputs[0].token_ids) for output in outputs]


def processor_of(llm):
    """The one processor of ours in an engine that runs in this process."""
    executor = llm.llm_engine.engine_core.engine_core.model_executor
    processors = executor.driver_worker.worker.model_runner.input_batch.logitsprocs.all
    return next(one for one in processors if type(one).__name__ == "RewardGuidance")


def assert_nothing_is_held(llm):
    llm.llm_engine.step()  # vLLM tells of requests that have left at its next step, if need be an empty one
    processor = processor_of(llm)
    assert not processor._rows
    assert not processor.batch
    assert processor.batch.scorer.row_count == 0
    assert not processor.batch.scorer.reader.buffer.layers


SETTINGS = [None, {"beta": 2.0, "top_k": 5}, {"beta": -3.0, "top_k": 20}, {"beta": 0.0, "top_k": 4}, {"beta": 1.0}]


def test_penalties_are_on_the_policy_s_scores_before_candidates_are_chosen(guided):
    llm, alone = guided
    settings = {"beta": 2.0, "top_k": 4}
    given = prompts(3, seed=8)
    asked = [parameters(settings, 24, repetition_penalty=penalty) for penalty in (1.0, 1.5, 0.8)]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in given], asked, use_tqdm=False)
    for ids, output, penalty in zip(given, outputs, (1.0, 1.5, 0.8), strict=True):
        expected = alone(ids, settings, 24, repetition_penalty=penalty)
        assert list(output.outputs[0].token_ids) == expected
    assert alone(given[1], settings, 24, repetition_penalty=1.5) != alone(given[1], settings, 24)


def test_several_responses_to_a_request_are_guided_each(guided):
    from vllm import SamplingParams

    llm, alone = guided
    # vLLM refuses n > 1 without sampling, and samples at a temperature of 0.01 at the least: far apart, it is greedy.
    settings = {"beta": 20.0, "top_k": 5}
    given = prompts(4, seed=11)
    asked = SamplingParams(n=3, temperature=0.01, max_tokens=LENGTH, extra_args={"rgtg": settings})
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in given], asked, use_tqdm=False)
    for ids, output in zip(given, outputs, strict=True):
        assert [list(one.token_ids) for one in output.outputs] == [alone(ids, settings)] * 3
    assert_nothing_is_held(llm)


def test_logprobs_are_those_of_the_policy_unless_processed_ones_are_asked_for(guided, models):
    llm, alone = guided
    ids, settings = prompts(1, seed=12)[0], {"beta": 3.0, "top_k": 5}
    (output,) = llm.generate([{"prompt_token_ids": ids}], parameters(settings, 4, logprobs=8), use_tqdm=False)
    written = list(output.outputs[0].token_ids)
    assert written == alone(ids, settings, 4)
    expected = alone.policy(torch.tensor([ids + written[:-1]])).logits[0, len(ids) - 1 :].log_softmax(-1)
    for row, found in zip(expected, output.outputs[0].logprobs, strict=True):
        assert len(found) >= 8
        for token, one in found.items():
            assert one.logprob == pytest.approx(float(row[token]), abs=1e-3)


def test_structured_outputs_leave_the_candidates_among_which_guidance_chooses(guided):
    from vllm.sampling_params import StructuredOutputsParams

    llm, alone = guided
    ids = prompts(1, seed=13)[0]
    allowed = byte_tokenizer()("abcdefghij")["input_ids"]
    grammar = StructuredOutputsParams(regex="[a-j]{6}")

    class OnlyThese(LogitsProcessor):
        def __call__(self, input_ids, scores):
            left = torch.full_like(scores, -torch.inf)
            left[:, allowed] = scores[:, allowed]
            return left

    found = []
    for settings in ({"beta": 30.0, "top_k": 6}, None):
        asked = parameters(settings, 6, structured_outputs=grammar)
        (output,) = llm.generate([{"prompt_token_ids": ids}], asked, use_tqdm=False)
        found.append(list(output.outputs[0].token_ids))
        guide = [RewardGuidedLogitsProcessor(alone.reward_model, **settings)] if settings else []
        expected = alone.policy.generate(
            torch.tensor([ids]), logits_processor=[OnlyThese(), *guide], max_new_tokens=6, do_sample=False
        )
        assert found[-1][:6] == expected[0, len(ids) :].tolist()
        assert set(found[-1]) <= {*allowed, EOS}
    assert found[0] != found[1]


def test_prompts_that_share_a_beginning_are_read_once_and_come_out_the_same(guided):
    llm, alone = guided
    settings = {"beta": 2.0, "top_k": 5}
    beginning = (prompts(1, seed=14)[0] * 130)[:130]  # vLLM's blocks hold 128 tokens on CPU
    given = [beginning + own for own in [*prompts(5, seed=15, longest=9), [5], [5]]]
    expected = [alone(ids, settings) for ids in given]
    for _ in range(2):
        asked = [{"prompt_token_ids": ids} for ids in given]
        outputs = llm.generate(asked, parameters(settings), use_tqdm=False)
        assert [list(output.outputs[0].token_ids) for output in outputs] == expected
    assert all(output.num_cached_tokens >= 128 for output in outputs)


def test_guided_and_unguided_requests_side_by_side_get_what_they_get_alone(guided):
    llm, alone = guided
    some = prompts(20)  # four more than run at once
    settings = [SETTINGS[i % len(SETTINGS)] for i in range(len(some))]
    assert run(llm, some, settings) == [alone(*one) for one in zip(some, settings, strict=True)]
    assert_nothing_is_held(llm)


def test_requests_come_go_and_are_cancelled_in_any_order(guided):
    """Sixteen at once and more waiting, a third of them cancelled somewhere on their way."""
    llm, alone = guided
    chance = random.Random(1)
    waiting = list(enumerate(prompts(40, seed=1)))
    settings = [chance.choice(SETTINGS) for _ in waiting]
    lengths = [chance.randrange(1, 2 * LENGTH) for _ in waiting]
    running, found, cancelled = set(), {}, set()
    while waiting or running:
        while waiting and (len(running) < 16 or chance.random() < 0.2):
            number, ids = waiting.pop(0)
            llm.llm_engine.add_request(
                str(number), {"prompt_token_ids": ids}, parameters(settings[number], lengths[number])
            )
            running.add(number)
        for output in llm.llm_engine.step():
            if output.finished and (number := int(output.request_id)) in running:
                found[number] = list(output.outputs[0].token_ids)
                running.discard(number)
        if running and chance.random() < 0.25:
            number = chance.choice(sorted(running))
            llm.llm_engine.abort_request([str(number)])
            running.discard(number)
            cancelled.add(number)
    assert len(cancelled) > 5
    assert set(found) == set(range(40)) - cancelled
    for number, ids in enumerate(prompts(40, seed=1)):
        if number in found:
            assert found[number] == alone(ids, settings[number], lengths[number]), number
    assert_nothing_is_held(llm)


def test_requests_that_ask_for_nothing_never_meet_the_reward_model(guided):
    llm, _ = guided
    before = processor_of(llm).batch.scorer.reader.tokens_computed
    run(llm, prompts(4), [None] * 4)
    assert processor_of(llm).batch.scorer.reader.tokens_computed == before


@pytest.mark.parametrize("settings", [{"bta": 1.0}, {"beta": "strong"}, {"top_k": 0}, {"top_k": 1000}, 3])
def test_a_bad_request_is_refused_and_the_engine_goes_on(guided, settings):
    from vllm.exceptions import VLLMValidationError

    llm, alone = guided
    with pytest.raises(VLLMValidationError, match="rgtg"):
        run(llm, prompts(1), [settings])
    assert run(llm, prompts(1), [SETTINGS[1]]) == [alone(prompts(1)[0], SETTINGS[1])]


def test_sampled_frequencies_follow_the_law(guided):
    from vllm import SamplingParams

    llm, alone = guided
    prompt, count, beta, top_k = prompts(1, seed=3)[0], 2000, 1.0, 6
    extra = {"rgtg": {"beta": beta, "top_k": top_k}}
    params = SamplingParams(temperature=1.0, max_tokens=1, n=count, seed=7, extra_args=extra)
    outputs = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].outputs
    drawn = torch.bincount(torch.tensor([one.token_ids[0] for one in outputs]), minlength=alone.policy.vocab_size)
    ids = torch.tensor([prompt])
    scores = RewardGuidedLogitsProcessor(alone.reward_model, beta, top_k)(ids, alone.policy(ids).logits[:, -1])[0]
    expected = scores.softmax(-1) * count
    assert drawn[expected == 0].sum() == 0
    kept = expected > 0
    chi_squared = ((drawn[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    assert chi_squared < 20.5  # five degrees of freedom: one in a thousand


def test_prompts_that_are_read_in_pieces_and_requests_that_are_preempted_come_out_the_same(models):
    alone = Alone(models, "siblings")
    some = prompts(8, seed=5, longest=120)
    settings = [SETTINGS[i % len(SETTINGS)] for i in range(len(some))]
    # Memory for some three of these requests, and fewer tokens in a step than a prompt has.
    small = {"max_num_batched_tokens": 32, "max_num_seqs": 8, "block_size": 32, "num_gpu_blocks_override": 14}
    with guided_engine(models, "siblings", max_model_len=160, enable_prefix_caching=False, **small) as llm:
        assert run(llm, some, settings, 40) == [alone(*one, 40) for one in zip(some, settings, strict=True)]
        assert_nothing_is_held(llm)


def test_a_merged_checkpoint_runs_as_it_is(models):
    merged = AutoModelForCausalLM.from_pretrained(models / "merged")
    with engine(models / "merged") as llm:
        for prompt, found in zip(prompts(6), run(llm, prompts(6), [None] * 6), strict=True):
            ids = torch.tensor([prompt])
            expected = merged.generate(ids, max_new_tokens=LENGTH, do_sample=False)[0, len(prompt) :].tolist()
            assert found == expected


def test_each_request_is_steered_by_the_head_that_it_names_beside_others_and_beside_rewards(models):
    from peft import PeftModel
    from vllm.lora.request import LoRARequest

    names = [None, "toward", "away"]
    ways = [(name, settings) for name in names for settings in (None, {"beta": 2.0})]
    requests = [(prompt, *way) for prompt in prompts(3) for way in ways]
    reward_model = AutoModelForSequenceClassification.from_pretrained(models / "siblings")
    policy = AutoModelForCausalLM.from_pretrained(models / "policy")
    # A slot more than there are adapters: on CPU, vLLM 0.32 adds the last slot to requests without an adapter.
    with guided_engine(models, "siblings", enable_lora=True, max_loras=3, max_lora_rank=8) as llm:
        outputs = llm.generate(
            [{"prompt_token_ids": prompt} for prompt, _, _ in requests],
            [parameters(settings) for _, _, settings in requests],
            lora_request=[
                None if name is None else LoRARequest(name, names.index(name), str(models / name))
                for _, name, _ in requests
            ],
            use_tqdm=False,
        )
    found = [list(output.outputs[0].token_ids) for output in outputs]
    adapted = PeftModel.from_pretrained(policy, models / "toward", adapter_name="toward")
    adapted.load_adapter(models / "away", adapter_name="away")

    def alone(prompt, name, settings):
        guides = [] if settings is None else [RewardGuidedLogitsProcessor(reward_model, **settings)]
        given = {"logits_processor": guides, "max_new_tokens": LENGTH, "do_sample": False}
        ids = torch.tensor([prompt])
        if name is None:
            with adapted.disable_adapter():
                return adapted.generate(ids, **given)[0, len(prompt) :].tolist()
        adapted.set_adapter(name)
        return adapted.generate(ids, **given)[0, len(prompt) :].tolist()

    assert found == [alone(*one) for one in requests]
    assert len({tuple(ids) for ids in found}) > len(found) / 2


def test_a_head_with_a_nonlinearity_steers_in_the_policys_logits(models):
    policy = AutoModelForCausalLM.from_pretrained(models / "policy")
    head = NextTokenRewardModel.from_pretrained(models / "head").attach(policy)
    beta = 2.0
    plain = [policy.generate(torch.tensor([ids]), max_new_tokens=LENGTH, do_sample=False) for ids in prompts(6)]
    with steered_engine(models, "policy", beta) as llm:
        found = run(llm, prompts(6), [None] * 6)
    changed = 0
    for prompt, unsteered, ids in zip(prompts(6), plain, found, strict=True):
        with steering(policy, [(head, beta)], top_k=0) as processor:
            expected = policy.generate(
                torch.tensor([prompt]), logits_processor=[processor], max_new_tokens=LENGTH, do_sample=False
            )
        assert ids == expected[0, len(prompt) :].tolist()
        changed += ids != unsteered[0, len(prompt) :].tolist()
    assert changed >= 3


def test_a_head_is_refused_on_another_policy(models):
    with pytest.raises(ValueError, match="fingerprint"), steered_engine(models, "other-policy", 1.0):
        pass


def steered_engine(models, policy, beta):
    return engine(
        models / policy,
        hf_overrides={"architectures": ["SteeredLlamaForCausalLM"]},
        additional_config={"rgtg": {"head": str(models / "head"), "head_beta": beta}},
    )


@pytest.mark.parametrize(
    ("reward_model", "settings", "sentence"),
    [
        ("no-such-folder", {}, "no-such-folder"),
        ("other-vocabulary", {}, "both need one vocabulary"),
        ("head", {}, "name it as `head`"),
        ("siblings", {"rgtg": {"cache_gib": 0.001}}, "`cache_gib` allows 0.001"),
        ("siblings", {"rgtg": {"cach_gib": 1}}, r"unknown settings \['cach_gib'\]"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(models, reward_model, settings, sentence):
    with (
        pytest.raises((ValueError, OSError), match=sentence),
        guided_engine(models, reward_model, **dict(settings)),
    ):
        pass
