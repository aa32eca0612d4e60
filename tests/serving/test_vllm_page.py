"""Runs what the page on vLLM shows, with tiny models under the names that it uses."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.conftest import ENVIRONMENT, serve

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall((ROOT / "docs" / "how-to" / "vllm.md").read_text("utf-8"))
OFFLINE, CLIENT = [code for language, code in BLOCKS if language == "python"]
SERVERS = [code for _, code in BLOCKS if code.startswith("vllm serve")]
README = (ROOT / "README.md").read_text("utf-8")
((START, REQUEST),) = re.findall(r"^```text\n(vllm serve .*?)\n(curl .*?)\n```", README, re.DOTALL | re.MULTILINE)
NAMES = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "policy",
    "outputs/demo/reward_model": "siblings",
    "my-head": "head",
    "kind": "toward",
    "kinder": "away",
}


@pytest.fixture
def place(models, tmp_path):
    for name, own in NAMES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(models / own)
    return tmp_path


def test_the_offline_example_runs(place):
    script = place / "example.py"
    script.write_text(OFFLINE.replace("max_model_len=512,", "max_model_len=512, enforce_eager=True,"))
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script.name], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("command", SERVERS, ids=["reward model", "adapters", "head"])
def test_the_servers_start_and_the_client_streams_from_them(place, command, capsys):
    with serve(shlex.split(command.replace("\\\n", " "))[2:], place) as address:
        code = CLIENT.replace("http://localhost:8000", address)
        if "reward_model" not in command:
            code = re.sub(r"    extra_body=.*\n", "", code)
        if "lora" in command:
            code = code.replace('model="HuggingFaceTB/SmolLM2-135M-Instruct"', 'model="kinder"')
        exec(compile(code, "page", "exec"), {"__name__": "page"})
    assert capsys.readouterr().out


def test_the_readmes_server_answers_curl_and_writes_what_plain_vllm_does_where_it_is_not_asked_to_guide(place):
    start = shlex.split(START.replace("\\\n", " "))[2:]
    ask = shlex.split(REQUEST)[1:]
    guided = json.loads(ask[-1]) | {"temperature": 0}
    unguided = {name: value for name, value in guided.items() if name != "vllm_xargs"}

    def answers(address, *requests):
        url = ask[0].replace("http://localhost:8000", address)
        command = ["curl", "-s", url, *ask[1:-1]]
        started = [subprocess.Popen([*command, json.dumps(one)], stdout=subprocess.PIPE) for one in requests]
        return [json.loads(one.communicate()[0])["choices"][0]["text"] for one in started]

    with serve(start, place) as address:
        steered, beside = answers(address, guided, unguided)
    plain_start = start[: start.index("--logits-processors")]
    with serve(plain_start, place) as address:
        (plain,) = answers(address, unguided)
    assert plain
    assert beside == plain != steered
