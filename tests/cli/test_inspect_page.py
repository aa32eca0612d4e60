"""Runs the code blocks of docs/inspect.md and the Space example, with tiny models in place of the ones they name."""

import asyncio
import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest

from rgtg_hf.cli.main import main

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (DOCS / "inspect.md").read_text("utf-8"), re.S | re.M)


@pytest.fixture
def place(tmp_path, monkeypatch, policy_folder, reward_folder):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(reward_folder, "outputs/demo/reward_model")
    return lambda code: code.replace("HuggingFaceTB/SmolLM2-135M-Instruct", policy_folder)


@pytest.fixture
def launched(monkeypatch):
    from rgtg_hf.cli.playground.playground_app import Playground

    calls = []
    monkeypatch.setattr(Playground, "launch", lambda self, **settings: calls.append(settings))
    return calls


def test_the_page_has_its_three_blocks():
    assert [language for language, _ in BLOCKS] == ["sh", "python", "sh"]


def test_the_command_writes_the_page(place):
    assert main([*shlex.split(place(BLOCKS[0][1]).replace("\\\n", " "))[1:], "--max_new_tokens", "4"]) == 0
    assert Path("inspect.html").exists()


def test_the_notebook_code_runs(place):
    scope = {}
    exec(compile(place(BLOCKS[1][1]).replace("beta=3.0", "beta=3.0, max_new_tokens=4"), "inspect.md", "exec"), scope)
    assert scope["found"]._repr_html_().startswith("<iframe")


def test_the_playground_starts(place, launched):
    command = place(BLOCKS[2][1]).splitlines()[1]

    async def start():  # see playground/test_playground_app.py
        return main(shlex.split(command)[1:])

    assert asyncio.run(start()) == 0
    assert launched[0]["server_name"] == "127.0.0.1"


def test_the_space_starts_and_leaves_the_address_to_its_host(place, launched, reward_folder, tmp_path):
    code = place((DOCS / "examples/space/app.py").read_text("utf-8"))
    (tmp_path / "app.py").write_text(code.replace("your-name/your-prefix-reward-model", reward_folder))

    async def start():
        runpy.run_path(str(tmp_path / "app.py"), run_name="__main__")

    asyncio.run(start())
    assert launched == [{}]
    assert (DOCS / "examples/space/requirements.txt").read_text() == "rgtg-hf[playground]\n"
