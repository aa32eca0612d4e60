"""Guided generation through vLLM's OpenAI server, with the OpenAI client, as a user meets it."""

import asyncio
import json
import random
import re
import subprocess
import threading
from contextlib import suppress

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rgtg_hf import NextTokenRewardModel, RewardGuidedLogitsProcessor, steering
from tests.cli.conftest import byte_tokenizer
from tests.serving.conftest import serve

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

TEXTS = ["It was a quiet evening.", "Say something kind", "abc", "The train was late again and then"]
GUIDANCE = {"rgtg_beta": 2.0, "rgtg_top_k": 5}


@pytest.fixture(scope="module")
def server(models, tmp_path_factory):
    """A server of the tiny policy, guided by siblings: its address."""
    settings = f'{{"rgtg": {{"reward_model": "{models / "siblings"}"}}}}'
    arguments = [str(models / "policy"), "--served-model-name", "tiny", "--dtype", "float32"]
    arguments += ["--max-model-len", "256", "--max-num-seqs", "16"]
    arguments += ["--logits-processors", "rgtg_hf.serving.vllm:RewardGuidance", "--additional-config", settings]
    folder = tmp_path_factory.mktemp("server")
    (folder / "metrics").mkdir()
    with serve(arguments, folder, PROMETHEUS_MULTIPROC_DIR=str(folder / "metrics")) as address:
        yield address


@pytest.fixture(scope="module")
def alone(models):
    policy = AutoModelForCausalLM.from_pretrained(models / "policy")
    reward_model = AutoModelForSequenceClassification.from_pretrained(models / "siblings")
    tokenizer = byte_tokenizer()

    def generate(text, length, guided, **settings):
        settings = settings or {"beta": 2.0, "top_k": 5}
        processors = [RewardGuidedLogitsProcessor(reward_model, **settings)] if guided else []
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        output = policy.generate(ids, logits_processor=processors, max_new_tokens=length, do_sample=False)
        return output[0, ids.shape[1] :].tolist()

    return generate


def client(server):
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)


async def complete(api, text, length, guided, cancel_after=None, **settings):
    """The ids that a request streams (the tiny model's bytes are no text), or what had come when it was cancelled."""
    stream = await api.completions.create(
        model="tiny",
        prompt=text,
        max_tokens=length,
        temperature=0,
        stream=True,
        extra_body={"return_token_ids": True} | ({"vllm_xargs": settings or GUIDANCE} if guided else {}),
    )
    ids = []
    async for chunk in stream:
        ids += chunk.choices[0].token_ids or []
        if cancel_after is not None and len(ids) >= cancel_after:
            await stream.close()
            break
    return ids


@pytest.mark.parametrize("guided", [True, False])
def test_a_streamed_response_is_that_of_the_transformers_route(server, alone, guided):
    async def ask():
        async with client(server) as api:
            return [await complete(api, text, 16, guided) for text in TEXTS]

    assert asyncio.run(ask()) == [alone(text, 16, guided) for text in TEXTS]


@pytest.mark.parametrize(
    "setting", [{"top_p": 0.2}, {"min_p": 0.6}, {"min_entropy": 4.0}, {"max_increment": 0.2}, {"max_step_kl": 0.05}]
)
def test_every_setting_of_guidance_can_be_asked_for(server, alone, setting):
    settings = {"beta": 4.0, "top_k": 8} | setting

    async def ask():
        async with client(server) as api:
            asked = {f"rgtg_{name}": value for name, value in settings.items()}
            return [await complete(api, text, 24, True, **asked) for text in TEXTS]

    found = asyncio.run(ask())
    assert found == [alone(text, 24, True, **settings) for text in TEXTS]
    assert found != [alone(text, 24, True, beta=4.0, top_k=8) for text in TEXTS]


def test_a_chat_is_guided_too(server):
    async def ask(**extra):
        message = {"role": "user", "content": TEXTS[0]}
        async with client(server) as api:
            response = await api.chat.completions.create(
                model="tiny", messages=[message], max_tokens=16, temperature=0, **extra
            )
        return response.choices[0].message.content

    as_keys = asyncio.run(ask(extra_body={"vllm_xargs": GUIDANCE}))
    as_text = asyncio.run(ask(extra_body={"vllm_xargs": {"rgtg": '{"beta": 2.0, "top_k": 5}'}}))
    assert as_keys == as_text != asyncio.run(ask())


def test_sixteen_at_once_with_cancellations_are_each_right(server, alone):
    chance = random.Random(0)
    jobs = [
        (f"{chance.choice(TEXTS)} {i}", chance.randrange(8, 40), chance.random() < 0.6, chance.choice([None, None, 3]))
        for i in range(48)
    ]

    async def ask():
        places = asyncio.Semaphore(16)

        async def one(job):
            async with places:
                return await complete(api, *job)

        async with client(server) as api:
            return await asyncio.gather(*map(one, jobs))

    for (text, length, guided, cancelled), found in zip(jobs, asyncio.run(ask()), strict=True):
        expected = alone(text, length, guided)
        assert found == (expected[: len(found)] if cancelled else expected)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"rgtg_bta": 1.0}, "unknown settings"),
        ({"rgtg_top_k": 5000}, "from 1 to 256"),
        ({"rgtg": "{"}, "not valid JSON"),
        ({"rgtg_beta": "strong"}, "a number is required"),
    ],
)
def test_a_bad_request_is_answered_with_a_sentence_and_the_server_goes_on(server, alone, extra, sentence):
    from openai import BadRequestError

    async def ask():
        async with client(server) as api:
            with pytest.raises(BadRequestError, match=sentence) as caught:
                await api.completions.create(
                    model="tiny", prompt=TEXTS[0], max_tokens=4, extra_body={"vllm_xargs": extra}
                )
            assert caught.value.status_code == 400
            return await complete(api, TEXTS[0], 8, True)

    assert asyncio.run(ask()) == alone(TEXTS[0], 8, True)


def test_a_request_that_is_too_long_is_refused_and_not_the_server(server, alone):
    """The reward model's cache is planned for the longest request that the server takes."""
    from openai import BadRequestError

    async def ask():
        async with client(server) as api:
            with pytest.raises(BadRequestError):
                await complete(api, "a" * 300, 8, True)
            return await complete(api, TEXTS[0], 8, True)

    assert asyncio.run(ask()) == alone(TEXTS[0], 8, True)


def test_the_metrics_of_guidance_are_among_the_server_s(server):
    def figures():
        lines = [line.rsplit(" ", 1) for line in httpx.get(f"{server}/metrics").text.splitlines()]
        return {name: float(value) for name, value in lines if name.startswith("rgtg_") and "{" not in name}

    async def ask():
        async with client(server) as api:
            jobs = [complete(api, text, 12, guided) for text in TEXTS for guided in (True, False)]
            return (await asyncio.gather(*jobs))[::2]

    before, written = figures(), asyncio.run(ask())
    asyncio.run(ask())  # the requests of the last step leave at the next one
    after = figures()
    found = {name: value - before.get(name, 0.0) for name, value in after.items()}
    assert found["rgtg_guided_requests_total"] == 2 * len(TEXTS)
    assert found["rgtg_guided_tokens_total"] >= 2 * sum(map(len, written))
    assert found["rgtg_guidance_seconds_count"] >= 12
    assert found["rgtg_guidance_seconds_sum"] > 0
    assert found["rgtg_not_finite_total"] == 0
    assert 0 <= after["rgtg_cache_rows"] <= len(TEXTS)
    assert after["rgtg_cache_bytes"] >= 0


def test_a_head_steers_with_speculative_decoding_too(models, tmp_path):
    """In a process of its own: it imports numba, after which vLLM 0.32 starts no other engine in a process."""
    policy = AutoModelForCausalLM.from_pretrained(models / "policy")
    head = NextTokenRewardModel.from_pretrained(models / "head").attach(policy)
    tokenizer, beta = byte_tokenizer(), 2.0
    speculation = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2, "prompt_lookup_min": 1}
    arguments = [str(models / "policy"), "--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "256"]
    arguments += ["--hf-overrides", '{"architectures": ["SteeredLlamaForCausalLM"]}']
    arguments += ["--additional-config", json.dumps({"rgtg": {"head": str(models / "head"), "head_beta": beta}})]
    arguments += ["--speculative-config", json.dumps(speculation)]

    async def ask(server):
        async with client(server) as api:
            return [await complete(api, text, 40, False) for text in TEXTS]

    with serve(arguments, tmp_path) as server:
        found = asyncio.run(ask(server))
        metrics = httpx.get(f"{server}/metrics").text
    for text, ids in zip(TEXTS, found, strict=True):
        prompt = torch.tensor([tokenizer(text)["input_ids"]])
        with steering(policy, [(head, beta)], top_k=0) as processor:
            expected = policy.generate(prompt, logits_processor=[processor], max_new_tokens=40, do_sample=False)
        assert ids == expected[0, prompt.shape[1] :].tolist()
    accepted = re.search(r"^vllm:spec_decode_num_accepted_tokens_total\S* (\S+)", metrics, re.MULTILINE)
    assert float(accepted[1]) > 0


def test_a_server_that_is_stopped_finishes_its_requests_first(models, tmp_path):
    settings = json.dumps({"rgtg": {"reward_model": str(models / "siblings")}})
    arguments = [str(models / "policy"), "--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "512"]
    arguments += ["--logits-processors", "rgtg_hf.serving.vllm:RewardGuidance", "--additional-config", settings]
    arguments += ["--shutdown-timeout", "50"]
    body = {"model": "tiny", "prompt": TEXTS[0], "max_tokens": 200, "ignore_eos": True, "stream": True}
    begun, lines = threading.Event(), []

    def ask(server):
        with suppress(httpx.HTTPError):
            asked = body | {"vllm_xargs": GUIDANCE}
            with httpx.stream("POST", f"{server}/v1/completions", json=asked, timeout=120) as answer:
                for line in answer.iter_lines():
                    lines.append(line)
                    begun.set()

    with serve(arguments, tmp_path) as server:  # which asserts that it ends with code 0
        asking = threading.Thread(target=ask, args=(server,))
        asking.start()
        assert begun.wait(60)
    asking.join(60)
    assert not asking.is_alive()
    assert any("[DONE]" in line for line in lines)
    assert not subprocess.run(["pgrep", "--full", str(tmp_path)], capture_output=True, check=False).stdout
