"""A policy with a merged head, converted to GGUF, writes in llama.cpp what it writes in transformers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgtg_hf import NextTokenRewardModel, merge_heads, steering
from rgtg_hf.cli.demo.demo_policy import demo_policy_path

pytestmark = [pytest.mark.gguf, pytest.mark.filterwarnings("ignore")]

TOOLS = Path(__file__).parents[2] / "build" / "gguf"
BETA = 60.0  # the head is random and small
PROMPTS = ["Describe a harbour.", "Why is the sky blue?", "Write a short letter to a friend."]


@pytest.fixture(scope="module")
def steered(tmp_path_factory):
    """The policy, a head, and the GGUF file of the policy with the head merged into it."""
    folder = tmp_path_factory.mktemp("steered")
    policy = AutoModelForCausalLM.from_pretrained(demo_policy_path(), dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(demo_policy_path())
    torch.manual_seed(0)
    head = NextTokenRewardModel.from_policy(policy, rank=8)
    for parameter in head.score.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    merge_heads(policy, [(head, BETA)]).save_pretrained(folder / "merged")
    tokenizer.save_pretrained(folder / "merged")
    (converter,) = TOOLS.glob("llama_cpp_python-*/vendor/llama.cpp/convert_hf_to_gguf.py")
    file = folder / "steered.gguf"
    command = [sys.executable, str(converter), str(folder / "merged"), "--outfile", str(file), "--outtype", "f32"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return policy, tokenizer, head, file


def test_its_greedy_tokens_are_those_of_the_steered_policy(steered):
    from llama_cpp import Llama

    policy, tokenizer, head, file = steered
    exact = 0  # ggml's number for float32, which the cache has then as in transformers
    llama = Llama(str(file), n_ctx=256, n_threads=1, type_k=exact, type_v=exact, verbose=False)
    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        settings = {"do_sample": False, "max_new_tokens": 24}
        plain = policy.generate(torch.tensor([ids]), **settings)[0, len(ids) :].tolist()
        with steering(policy, [(head, BETA)], top_k=0) as processor:
            expected = policy.generate(torch.tensor([ids]), logits_processor=[processor], **settings)
        written = []
        for token in llama.generate(ids, top_k=1, temp=0.0):
            written.append(token)
            if len(written) == 24 or token == tokenizer.eos_token_id:
                break
        assert written == expected[0, len(ids) :].tolist() != plain
