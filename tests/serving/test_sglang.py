"""Guided generation in SGLang: what its engine gives is what the transformers route gives.

The engine runs on CPU, with its own attention in torch. Its kernels are those of no GPU, but scheduler, cache of
prefixes and sampler are the ones that serve there.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import weakref
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rgtg_hf import RewardGuidedLogitsProcessor
from tests.serving.conftest import free_port, wait_for

pytestmark = [
    pytest.mark.sglang,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("sglang") is None, reason="SGLang is not installed: run `make test-sglang`"),
]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "sglang.md"
LENGTH = 12
ON_CPU = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "sampling_backend": "pytorch",
    "grammar_backend": "none",
    "dtype": "float32",
    "disable_cuda_graph": True,
    "skip_server_warmup": True,
    "log_level": "error",
}
SERVER = {
    "enable_custom_logit_processor": True,
    "disable_overlap_schedule": True,
    "max_running_requests": 8,
    "context_length": 256,
    "max_total_tokens": 2048,
}


def import_paths():
    """Those of this process, absolute, for a process that starts in another folder."""
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return os.pathsep.join([str(ROOT), *(str((ROOT / path).resolve()) for path in given)])


@pytest.fixture(scope="module")
def engine(models):
    """A real engine, whose scheduler is a process of its own."""
    import sglang

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", import_paths())
        patch.setenv("RGTG_SERVER", json.dumps({"reward_model": str(models / "siblings")}))
        # Prompts are read in pieces of 16 tokens.
        found = sglang.Engine(model_path=str(models / "policy"), **ON_CPU, **SERVER, chunked_prefill_size=16)
        yield found
        found.shutdown()


@pytest.fixture(scope="module")
def alone(models):
    """The transformers route, one request at a time."""
    policy = AutoModelForCausalLM.from_pretrained(models / "policy")
    reward_model = AutoModelForSequenceClassification.from_pretrained(models / "siblings")

    def alone(prompt, settings, *before):
        guides = [] if settings is None else [RewardGuidedLogitsProcessor(reward_model, **settings)]
        given = {"logits_processor": [*before, *guides], "max_new_tokens": LENGTH, "do_sample": False}
        return policy.generate(torch.tensor([prompt]), **given)[0, len(prompt) :].tolist()

    return alone


def ask(engine, prompts, settings, **others):
    """Sends all requests at once: the tokens of each."""
    from rgtg_hf.serving.sglang import SglangGuidance

    sampling = [
        {"temperature": 0, "max_new_tokens": LENGTH, **others}
        | ({} if one is None else {"custom_params": {"rgtg": one}})
        for one in settings
    ]
    processors = [None if one is None else SglangGuidance.to_str() for one in settings]
    outputs = engine.generate(input_ids=prompts, sampling_params=sampling, custom_logit_processor=processors)
    return [output["output_ids"] for output in outputs]


def prompts(count, longest=60):
    chance = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, longest, (count,), generator=chance).tolist()
    return [torch.randint(3, 250, (length,), generator=chance).tolist() for length in lengths]


def test_guided_and_unguided_requests_side_by_side_get_what_they_get_alone(engine, alone):
    # More requests than run at once, some of whose prompts begin alike, so that they are in the cache of prefixes.
    some = prompts(9) + [[*prompts(9)[-1], 7, 20 + place] for place in range(9)]
    settings = [[None, {}, {"beta": 2.0}, {"beta": -1.0, "top_k": 3}][place % 4] for place in range(len(some))]
    found = ask(engine, some, settings)
    assert found == [alone(*one) for one in zip(some, settings, strict=True)]
    unguided = [alone(prompt, None) for prompt in some]
    assert sum(one != other for one, other in zip(found, unguided, strict=True)) > len(some) / 2


def test_penalties_are_on_the_policys_scores_before_candidates_are_chosen(engine, alone):
    some, settings = prompts(3), {"beta": 2.0, "top_k": 4}

    def penalized(prompt):
        def penalty(ids, scores):
            scores = scores.clone()
            scores[:, ids[0, len(prompt) :].unique()] -= 1.5
            return scores

        return alone(prompt, settings, penalty)

    found = ask(engine, some, [settings] * 3, presence_penalty=1.5)
    assert found == [penalized(prompt) for prompt in some]
    assert found != ask(engine, some, [settings] * 3)


def test_a_bad_request_is_answered_with_a_sentence_and_the_engine_goes_on(engine, alone):
    with pytest.raises(ValueError, match=r"unknown settings \['betta'\]. Did you mean `beta`"):
        ask(engine, prompts(1), [{"betta": 2.0}])
    with pytest.raises(ValueError, match="`top_k` is 1000"):
        ask(engine, prompts(1), [{"top_k": 1000}])
    assert ask(engine, prompts(2), [{"beta": 2.0}, None]) == [
        alone(prompts(2)[0], {"beta": 2.0}),
        alone(prompts(2)[1], None),
    ]


def test_the_page_starts_a_server_and_its_client_is_answered(models, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    (_, start), (_, client) = blocks
    for name, own in {
        "HuggingFaceTB/SmolLM2-135M-Instruct": "policy",
        "outputs/demo/reward_model": "siblings",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).symlink_to(models / own)
    port = str(free_port())
    more = " ".join(
        f"--{name.replace('_', '-')} {'' if value is True else value}" for name, value in ON_CPU.items() if value
    )
    command = f"{start.strip()} {more}".replace("30000", port)
    # The command `sglang serve` is not on the path of this environment.
    command = command.replace("sglang serve", f"{sys.executable} -m sglang.launch_server")
    environment = os.environ | {"PYTHONPATH": import_paths()}
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            ["bash", "-c", f"exec env {command}"], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        wait_for(f"http://127.0.0.1:{port}", server, tmp_path / "server.log")
        exec(compile(client.replace("30000", port), "page", "exec"), {"__name__": "page"})
    finally:
        server.terminate()
        server.wait(60)
    assert capsys.readouterr().out.strip()


class Request:
    """A request as SGLang shows it to a processor."""

    def __init__(self, name, prompt):
        self.rid, self.origin_input_ids, self.output_ids = name, prompt, []
        self.done, self.to_finish = False, None

    def finished(self):
        return self.done


def sglang_module():
    return importlib.import_module("rgtg_hf.serving.sglang")


@pytest.fixture
def requests(models, monkeypatch):
    sglang = sglang_module()
    arguments = SimpleNamespace(**SERVER, speculative_algorithm=None)
    monkeypatch.setattr(sglang, "get_server_args", lambda: arguments)
    monkeypatch.setenv("RGTG_SERVER", json.dumps({"reward_model": str(models / "siblings")}))
    requests = sglang._GuidedRequests()
    requests.arguments = arguments
    return requests


def guide(requests, those, settings=None):
    parameters = [{"rgtg": settings or {"beta": 2.0}, "__req__": weakref.proxy(one)} for one in those]
    return requests.guide(torch.randn(len(those), 259, generator=torch.Generator().manual_seed(0)), parameters)


def test_requests_that_have_ended_or_are_gone_are_forgotten(requests):
    one, other, third = (Request(str(place), [5, 6, 7 + place]) for place in range(3))
    guide(requests, [one, other, third])
    assert requests._batch.scorer.row_count == 3
    one.done = True
    guide(requests, [other])  # the third is not at work in this step
    assert requests._batch.scorer.row_count == 2
    del third
    guide(requests, [other])
    assert requests._batch.scorer.row_count == 1


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"disable_overlap_schedule": False}, "start it with --disable-overlap-schedule"),
        ({"speculative_algorithm": "NGRAM"}, "beside speculative decoding"),
        ({"max_running_requests": None}, "start the server with --max-running-requests"),
        ({"context_length": None}, "start the server with --context-length"),
        ({"max_running_requests": 1_000_000}, "`cache_gib` allows"),
    ],
)
def test_what_cannot_work_ends_each_request_with_a_sentence(requests, changed, sentence, monkeypatch):
    vars(requests.arguments).update(changed)
    loaded = []
    load = sglang_module().load_row_scorer
    monkeypatch.setattr(sglang_module(), "load_row_scorer", lambda *given: loaded.append(given) or load(*given))
    for name in "01":
        request = Request(name, [5, 6, 7])
        guide(requests, [request])
        assert sentence in request.to_finish.message
        assert request.to_finish.status_code == 400
    assert len(loaded) <= 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (None, "without a reward model to steer by: pass RGTG_SERVER="),
        ("{", "RGTG_SERVER is not valid JSON"),
        ('{"reward_model": "a", "cache": 1}', "RGTG_SERVER has unknown settings ['cache']"),
    ],
)
def test_mistakes_in_the_settings_are_named(requests, monkeypatch, given, sentence):
    monkeypatch.delenv("RGTG_SERVER") if given is None else monkeypatch.setenv("RGTG_SERVER", given)
    request = Request("0", [5, 6, 7])
    guide(requests, [request])
    assert sentence in request.to_finish.message


def test_rows_that_ask_for_nothing_are_left_as_they_are(requests):
    logits = torch.randn(2, 259)
    assert requests.guide(logits, [None, {"other": 1}]).equal(logits)
    assert requests._batch is None
