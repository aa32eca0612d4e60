"""Rollouts that vLLM writes, in this process and as a server, are those of the policy."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from rgtg_hf.cli.main import main
from rgtg_hf.evaluation.rollouts import rollouts
from rgtg_hf.serving.engines import ServerEngine, VllmEngine
from tests.cli.conftest import byte_tokenizer
from tests.serving.conftest import ENVIRONMENT, clean_up, serve

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

PROMPTS = ["It was a quiet evening.", "Why?", "Say something kind"]


def longest(prompts, responses):
    return [float(len(response)) for response in responses]


@pytest.fixture(scope="module", params=["in this process", "a server"])
def vllm(request, models, tmp_path_factory):
    """An engine, and what `--engine` calls it."""
    policy = str(models / "policy")
    if request.param == "a server":
        arguments = [policy, "--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "256"]
        with serve(arguments, tmp_path_factory.mktemp("server")) as address:
            yield ServerEngine(f"{address}/v1", byte_tokenizer()), f"{address}/v1"
    else:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}).items():
                patch.setenv(name, value)
            yield VllmEngine(policy, dtype="float32", max_model_len=256, enforce_eager=True), None
            clean_up()


def test_with_one_candidate_they_are_the_policy_s_greedy_responses(vllm, models):
    engine, _ = vllm
    policy, tokenizer = AutoModelForCausalLM.from_pretrained(models / "policy"), byte_tokenizer()
    settings = {"num_responses": 2, "top_k": 1, "max_new_tokens": 12}
    rows, expected = (rollouts(one, tokenizer, PROMPTS, longest, **settings) for one in (engine, policy))
    assert rows == expected


def test_they_are_sampled_from_the_policy_s_likeliest_tokens(vllm, models):
    engine, _ = vllm
    policy, tokenizer = AutoModelForCausalLM.from_pretrained(models / "policy"), byte_tokenizer()
    rows = rollouts(engine, tokenizer, PROMPTS, longest, num_responses=32, top_k=3, max_new_tokens=2)
    assert len({tuple(row["completion_ids"]) for row in rows}) > 3 * 3  # of 27
    for row in rows:
        ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
        likeliest = policy(ids).logits[0].topk(3).indices
        for place, one in enumerate(row["completion_ids"], start=len(row["prompt_ids"])):
            assert one in likeliest[place - 1]


def test_the_command_asks_it(vllm, models, tmp_path, monkeypatch):
    _, address = vllm
    if address is None:
        pytest.skip("an engine of its own in this process would not fit beside the fixture's")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    (tmp_path / "rule.py").write_text(
        "def longest(prompts, responses):\n    return [float(len(r)) for r in responses]\n"
    )
    options = ["--model", str(models / "policy"), "--prompts", "prompts.txt", "--reward", "rule:longest"]
    options += ["--num_responses", "4", "--max_new_tokens", "8", "--output", "out.jsonl", "--pairs", "pairs.jsonl"]
    assert main(["rollouts", *options, "--engine", address]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert (tmp_path / "pairs.jsonl").read_text()
