"""Runs every code block of the README, with tiny models in the place of the ones it names."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from rgtg_hf.cli.main import main

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", Path(__file__).parents[2].joinpath("README.md").read_text(), re.S | re.M)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [code for language, code in BLOCKS if language == "sh" and "rgtg-hf" in code]
PLACES = [
    ("num_layers=10),", "num_layers=10, max_steps=1, report_to='none', dataloader_pin_memory=False),"),
    (
        "--output_dir reward_model",
        "--output_dir reward_model --max_steps 1 --report_to none --dataloader_pin_memory False",
    ),
    ("num_layers=10", "num_layers=1"),
    ("--num_layers 10", "--num_layers 1"),
]


@pytest.fixture
def place(tmp_path, monkeypatch, policy_folder, reward_folder):
    """A folder with what the blocks read, and their text with tiny models and one training step."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(reward_folder, "outputs/demo/reward_model")
    rows = [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(4)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def replace(code):
        for old, new in [("HuggingFaceTB/SmolLM2-135M-Instruct", policy_folder), *PLACES]:
            code = code.replace(old, new)
        return code

    return replace


def test_all_three_uses_are_there():
    assert (len(PYTHON), len(SHELL)) == (2, 1)


@pytest.mark.parametrize("code", PYTHON, ids=["steer", "train"])
def test_python_blocks_run(code, place):
    exec(compile(place(code), "README.md", "exec"), {})


def test_shell_block_trains_and_generates(place, capsys):
    commands = place(SHELL[0]).replace("\\\n", " ").strip().splitlines()
    assert len(commands) == 2
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0
    assert Path("reward_model", "model.safetensors").exists()
