"""Each command runs with the packages of its own extra alone, and names the extra if a package is missing."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from rgtg_hf.cli.main import COMMANDS
from tests.tiny_models import tiny_steering_head

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path):
    """Runs commands with one extra; returns the exit code and stderr."""

    def run(extra, *commands):
        done = subprocess.run(
            [sys.executable, "-m", "tests.cli.extra_alone", extra, json.dumps(commands, default=str)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "cache")},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    return run


@pytest.fixture
def options(policy_folder, reward_folder, tmp_path):
    """Options for each command that use all of it, quickly."""
    pairs, prompts = tmp_path / "pairs.jsonl", tmp_path / "prompts.txt"
    rows = [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(4)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts.write_text("Hello\nWhy?\n")
    rated = tmp_path / "rated.jsonl"
    rows = [{"prompt": "Q", "completion": f"answer {i}", "reward": float(i)} for i in range(4)]
    rated.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_steering_head(AutoModelForCausalLM.from_pretrained(policy_folder), 3, nonlinear=False).save_pretrained(
        tmp_path / "head"
    )
    shutil.copytree(reward_folder, tmp_path / "pushed")
    (tmp_path / "pushed" / "README.md").write_text("---\ntags: []\n---\n# A card\n")
    models = ["--model", policy_folder, "--reward_model", reward_folder]
    training = ["--report_to", "none", "--bf16", "False", "--dataloader_pin_memory", "False", "--max_steps", "1"]
    out, short = tmp_path / "out", ["--max_new_tokens", "3"]
    return {
        "rollouts": [
            *("--model", policy_folder, "--prompts", prompts, "--reward", reward_folder, "--num_responses", "2"),
            *("--output", tmp_path / "rollouts.jsonl", *short),
        ],
        "rate": [rated, "--reward", reward_folder, "--output", tmp_path / "rated_again.jsonl"],
        "train-values": [
            *("--model_name_or_path", policy_folder, "--dataset_name", rated, "--output_dir", tmp_path / "values"),
            *training,
        ],
        "train-head": [
            *("--model_name_or_path", policy_folder, "--dataset_name", rated, "--output_dir", tmp_path / "advantages"),
            *training,
        ],
        "sample": [tmp_path / "sampled_pairs.jsonl"],
        "train": ["--model_name_or_path", policy_folder, "--dataset_name", pairs, "--output_dir", out, *training],
        "generate": [*models, *short, "--prompts", prompts, "--output", tmp_path / "out.jsonl"],
        "evaluate": [
            *(*models, *short, "--prompts", prompts, "--output", out, "--gold", "flesch"),
            *("--betas", "1", "--ns", "2", "--training_data", pairs, "--pairs", pairs),
        ],
        "push": [tmp_path / "pushed", "owner/name", "--local_only"],
        "inspect": [*models, *short, "--output", tmp_path / "out.html", "Hi!"],
        "playground": [*models, "--device", "cpu"],
        "merge": ["--model", policy_folder, "--heads", tmp_path / "head", "--output_dir", out],
        "demo": [
            *("--model", policy_folder, "--output_dir", out, *short, "--betas", "1"),
            *("--max_steps", "1", "--num_layers", "1", "--num_prompts", "2"),
        ],
    }


@pytest.mark.parametrize(
    "extra", ["", *(pytest.param(one, marks=pytest.mark.slow) for one in ("evaluate", "train", "demo"))]
)
def test_the_commands_of_an_extra_need_no_other_package(extra, options, run):
    names = [name for name, (_, needed, _) in COMMANDS.items() if (needed or "") == extra]
    code, error = run(extra, *([name, *options[name]] for name in names))
    assert code == 0, error


@pytest.mark.slow
def test_the_playground_needs_no_more_than_its_extra(options, run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, error = run("playground", ["playground", *options["playground"], "--port", str(port)])
    assert (code, "cannot listen on" in error) == (2, True), error  # the page was built before


@pytest.mark.parametrize("command", [name for name, (_, extra, _) in COMMANDS.items() if extra])
def test_a_missing_extra_is_named_in_one_line_before_any_work(command, options, run, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, error = run("", [command, *options[command]])
    assert code == 2
    assert error.startswith("rgtg-hf: error: ")
    assert error.count("\n") == 1
    assert f'pip install "rgtg-hf[{COMMANDS[command][1]}]"' in error
    assert sorted(tmp_path.rglob("*")) == before
