"""Tiny checkpoints that vLLM can serve, and engines of it. Tests marked `vllm` run where it is installed."""

import gc
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rgtg_hf import NextTokenRewardModel, merge_heads
from rgtg_hf.rewards.lora import heads_as_lora
from tests.cli.conftest import byte_tokenizer

LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,  # vLLM's attention on CPU wants heads of 32 numbers at least
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}


def pytest_collection_modifyitems(items):
    if find_spec("vllm") is None:
        for item in items:
            if item.get_closest_marker("vllm"):
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed: run `make test-vllm`"))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder with a policy, two kinds of reward models, heads, and a policy that one of them is merged into."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = byte_tokenizer()
    settings = LLAMA | {
        "vocab_size": len(tokenizer),
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")},
    }

    def save(name, model):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        return model

    torch.manual_seed(0)
    policy = save("policy", LlamaForCausalLM(LlamaConfig(**settings)))
    save("other-policy", LlamaForCausalLM(LlamaConfig(**settings)))
    classifier = LlamaForSequenceClassification(LlamaConfig(**settings, num_labels=1))
    torch.nn.init.normal_(classifier.score.weight, std=0.3)
    save("siblings", classifier)
    save("next-token", _filled(NextTokenRewardModel.from_backbone(classifier, rank=8)))
    save("head", _filled(NextTokenRewardModel.from_policy(policy, rank=8, nonlinear=True, context_scale=1.0)))
    linear = _filled(NextTokenRewardModel.from_policy(policy, rank=8, context_scale=1.0))
    save("linear-head", linear)
    save("merged", merge_heads(policy, [(linear, 0.5)]))
    for name, beta in (("toward", 0.5), ("away", -0.7)):
        heads_as_lora(policy, [(linear, beta)]).save_pretrained(folder / name)
    other = LlamaForSequenceClassification(LlamaConfig(**settings | {"vocab_size": 300}, num_labels=1))
    other.save_pretrained(folder / "other-vocabulary")
    return folder


def _filled(model):
    for parameter in model.score.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@contextmanager
def engine(model, **settings):
    """A vLLM engine in this process."""
    for name, value in (ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}).items():
        os.environ.setdefault(name, value)
    from vllm import LLM

    defaults = {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "enforce_eager": True}
    llm = None
    try:
        llm = LLM(str(model), **defaults | settings)
        yield llm
    finally:
        del llm
        clean_up()


def clean_up():
    """Lets go of an engine in this process."""
    from vllm.distributed import cleanup_dist_env_and_memory

    gc.collect()
    cleanup_dist_env_and_memory()


def guided_engine(models, reward_model, **settings):
    """An engine whose requests can be guided by one of the reward models."""
    own = {"reward_model": str(models / reward_model)} | settings.pop("rgtg", {})
    return engine(
        models / "policy",
        logits_processors=["rgtg_hf.serving.vllm:RewardGuidance"],
        additional_config={"rgtg": own},
        **settings,
    )


@contextmanager
def serve(arguments, folder, **environment):
    """A server of its own process, started in a folder with the arguments of `vllm serve`: its address."""
    port = free_port()
    log = folder / "server.log"
    # The module is what `vllm serve` runs. The command itself asks for a distribution of the name vllm.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", *arguments]
    command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, process, log)
        yield address
        assert process.poll() is None, log.read_text()[-3000:]
    finally:
        process.terminate()
        code = process.wait(60)
    assert code == 0, log.read_text()[-3000:]


def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(address, process, log):
    """Waits until a server is healthy, or fails with the end of its log."""
    import httpx

    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(1)
    pytest.fail(log.read_text()[-3000:])
