"""Runs that are killed go on to what an undisturbed run gives; runs that are interrupted say how.

The moments are drawn over the whole run: a number of results on disk is waited for, and then a part of the time that
one of them takes. RGTG_KILLS sets how often, RGTG_SEED the draw; both are printed.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.runs import ROOT, finish, wait_for
from tests.training import run_training

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("RGTG_KILLS", "20"))
SEED = int(os.environ.get("RGTG_SEED", "0"))
PROMPTS, STEPS = 12, 12


@dataclass
class Command:
    """How to run a command into a folder, and what it leaves there."""

    arguments: Callable[[Path], list[str]]
    resume: list[str]  # what is added to go on
    progress: Callable[[Path], int]  # results on disk
    total: int
    result: Callable[[Path], Any]  # what must be equal


def count_lines(folder, name):
    return sum(path.read_bytes().count(b"\n") for path in folder.glob(f"{name}*"))


def trained(folder):
    state = json.loads((folder / "out" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == STEPS
    return losses, (folder / "out" / "model.safetensors").read_bytes()


def evaluated(folder):
    rows = [json.loads(line) for line in (folder / "out" / "texts.jsonl").read_text().splitlines()]
    report = json.loads((folder / "out" / "report.json").read_text())
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows], report["gold"]


@pytest.fixture(scope="module")
def commands(policy_folder, reward_folder, tmp_path_factory):
    inputs = tmp_path_factory.mktemp("inputs")
    prompts, pairs = inputs / "prompts.jsonl", inputs / "pairs.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {i}?"}) + "\n" for i in range(PROMPTS)))
    rows = [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i * i}"} for i in range(24)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    generate = ["generate", "--model", policy_folder, "--reward_model", reward_folder, "--prompts", str(prompts)]
    generate += ["--max_new_tokens", "24", "--batch_size", "2"]
    train = ["train", "--model_name_or_path", policy_folder, "--dataset_name", str(pairs), "--num_layers", "2"]
    train += ["--max_steps", str(STEPS), "--per_device_train_batch_size", "4", "--learning_rate", "1e-3"]
    train += ["--save_strategy", "steps", "--save_steps", "2", "--logging_steps", "1", "--prefixes", "random"]
    train += ["--report_to", "none", "--bf16", "False", "--dataloader_pin_memory", "False", "--disable_tqdm", "True"]
    evaluate = ["evaluate", "--model", policy_folder, "--reward_model", reward_folder, "--prompts", str(prompts)]
    evaluate += ["--methods", "policy", "pargs", "--betas", "2", "--max_new_tokens", "12", "--batch_size", "4"]
    return {
        "evaluate": Command(
            lambda folder: [*evaluate, "--gold", "tests.faults.runs:judge", "--output", str(folder / "out")],
            [],
            lambda folder: count_lines(folder / "out", "texts.jsonl"),
            2 * PROMPTS,
            evaluated,
        ),
        "generate": Command(
            lambda folder: [*generate, "--output", str(folder / "out.jsonl")],
            [],
            lambda folder: count_lines(folder, "out.jsonl"),
            PROMPTS,
            lambda folder: (folder / "out.jsonl").read_bytes(),
        ),
        "train": Command(
            lambda folder: [*train, "--output_dir", str(folder / "out")],
            ["--resume_from_checkpoint", "last"],
            lambda folder: len(list((folder / "out").glob("checkpoint-*"))),
            STEPS // 2,
            trained,
        ),
    }


@pytest.fixture(scope="module")
def whole(commands, start, tmp_path_factory):
    """What undisturbed runs give, and how long they take."""
    results = {}
    for name, command in commands.items():
        folder = tmp_path_factory.mktemp(name)
        began = time.monotonic()
        process = start(command.arguments(folder), folder / "log")
        assert finish(process) == 0, (folder / "log").read_text()
        results[name] = command.result(folder), time.monotonic() - began
    return results


def killed(command, folder, start, draw, seconds):
    """Starts a command and kills it at some moment; returns whether that was in time."""
    wanted, delay = draw.randrange(command.total), draw.uniform(0, seconds / command.total)
    process = start(command.arguments(folder), folder / "log")
    if wait_for(lambda: command.progress(folder) >= wanted, process):
        time.sleep(delay)
    process.kill()
    return finish(process) == -signal.SIGKILL


@pytest.mark.parametrize("name", ["generate", "evaluate", "train"])
def test_a_killed_run_goes_on_to_what_an_undisturbed_one_gives(name, commands, whole, start, tmp_path):
    command, (expected, seconds) = commands[name], whole[name]
    draw = random.Random(SEED)
    kills, moments = 0, []
    for trial in range(10 * KILLS):
        if kills == KILLS:
            break
        folder = tmp_path / str(trial)
        folder.mkdir()
        if killed(command, folder, start, draw, seconds):
            kills += 1
            moments.append(command.progress(folder))
            process = start(command.arguments(folder) + command.resume, folder / "log")
            assert finish(process) == 0, f"seed {SEED}, trial {trial}: {(folder / 'log').read_text()}"
        assert command.result(folder) == expected, f"seed {SEED}, trial {trial}"
    print(f"\n{name}: {kills} kills, seed {SEED}, with this much on disk: {sorted(moments)}")
    assert kills == KILLS
    assert len(set(moments)) > 3 or KILLS < 10  # all over the run


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_training_that_is_interrupted_saves_its_step_and_says_how_to_go_on(which, commands, whole, start, tmp_path):
    command = commands["train"]
    process = start(command.arguments(tmp_path), tmp_path / "log")
    assert wait_for(lambda: command.progress(tmp_path) >= 2, process)
    saved = command.progress(tmp_path)
    os.kill(process.pid, which)
    assert finish(process) == 130
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "the same command with `--resume_from_checkpoint last` goes on from there" in log
    assert command.progress(tmp_path) <= saved + 2  # one more at a step's end, and one that was being written
    process = start(command.arguments(tmp_path) + command.resume, tmp_path / "log")
    assert finish(process) == 0, (tmp_path / "log").read_text()
    assert command.result(tmp_path) == whole["train"][0]


def test_generation_that_is_interrupted_stops_at_once_and_says_how_to_go_on(commands, whole, start, tmp_path):
    command = commands["generate"]
    process = start(command.arguments(tmp_path), tmp_path / "log")
    assert wait_for(lambda: command.progress(tmp_path) >= 3, process)
    os.kill(process.pid, signal.SIGINT)
    assert finish(process) == 130
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "the same command continues from them" in log
    assert command.progress(tmp_path) < PROMPTS
    assert finish(start(command.arguments(tmp_path), tmp_path / "log")) == 0
    assert command.result(tmp_path) == whole["generate"][0]


def launch(arguments, log):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    with open(log, "ab") as output:
        return subprocess.Popen([*command, *arguments], env=environment, stdout=output, stderr=output)


def kill_one_of_two(launched, ready, log):
    """Kills the second process of a run once `ready()`; returns the launcher's exit code."""
    try:
        end = time.monotonic() + 300
        while not ready():
            assert launched.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.01)
        workers = psutil.Process(launched.pid).children(recursive=True)
        next(worker for worker in workers if worker.environ().get("RANK") == "1").kill()
        return launched.wait(timeout=180)  # never a hang
    finally:
        if launched.poll() is None:
            for process in [*psutil.Process(launched.pid).children(recursive=True), launched]:
                process.kill()


def test_generation_ends_when_one_of_its_processes_dies_and_goes_on_later(commands, whole, start, tmp_path):
    command = commands["generate"]
    arguments = command.arguments(tmp_path)
    launched = launch(["-m", "rgtg_hf.cli.main", *arguments], tmp_path / "log")
    code = kill_one_of_two(launched, lambda: command.progress(tmp_path) >= 4, tmp_path / "log")
    assert code != 0
    assert not (tmp_path / "out.jsonl").exists()
    assert command.progress(tmp_path) >= 4
    assert finish(start(arguments, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert command.result(tmp_path) == whole["generate"][0]


def test_training_ends_when_one_of_its_processes_dies(tmp_path):
    settings = {"max_steps": 100000, "save_strategy": "steps", "save_steps": 5, "save_total_limit": 2}
    arguments = [str(Path(run_training.__file__)), str(tmp_path / "out"), json.dumps(settings)]
    launched = launch(arguments, tmp_path / "log")
    code = kill_one_of_two(launched, lambda: list(tmp_path.glob("out/checkpoint-*")), tmp_path / "log")
    assert code != 0
