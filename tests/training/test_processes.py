"""Real processes: several that train together, and one that is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from tests.training import run_training

ROOT = Path(__file__).parents[2]
SCRIPT = Path(run_training.__file__)


def start(command, output, settings):
    """Runs the training script in a process of its own; returns what it wrote and its exit code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    finished = subprocess.run(
        [*command, str(SCRIPT), str(output), json.dumps(settings)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    results = output / "losses.json"
    return json.loads(results.read_text()) if results.exists() else finished.stderr, finished.returncode


# `--multi_gpu` starts one process per "device"; the script then says `use_cpu`, which makes them gloo processes.
DDP = ["--multi_gpu", "--dynamo_backend", "no"]


def launch(output, settings, how=DDP):
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
    options = ["--mixed_precision", "no", "--main_process_port", "0"]
    result, code = start([*accelerate, *options, *how], output, settings)
    assert code == 0, result
    assert result["processes"] == 2
    return result


def test_two_processes_give_the_losses_of_one(tmp_path):
    """Pairs have different numbers of prefixes, so a mean of the processes' means would differ.

    The two evaluate first: processes that no longer share their gradients then would drift apart.
    """
    one = run_training.train(tmp_path / "one", {"per_device_train_batch_size": 8})
    two = launch(tmp_path / "two", {"per_device_train_batch_size": 4, "evaluate_first": True})
    assert len(two["losses"]) == 20
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    for name in ("eval_loss", "eval_accuracy", "eval_margin_at_100"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], abs=1e-5)


def test_two_processes_give_the_losses_of_one_head_of_advantages(tmp_path):
    """One process computes hidden states, and the other reads them."""
    one = run_training.train(tmp_path / "one", {"per_device_train_batch_size": 8, "of_advantages": True})
    two = launch(tmp_path / "two", {"per_device_train_batch_size": 4, "of_advantages": True})
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    for name in ("eval_loss", "eval_explained", "eval_gain_at_1_nat"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], abs=1e-4)


@pytest.mark.slow
def test_two_sharded_processes_give_the_losses_of_one(tmp_path):
    one = run_training.train_by_hand(tmp_path / "one", {"per_device_train_batch_size": 8})
    two = launch(tmp_path / "two", {"per_device_train_batch_size": 4, "by_hand": True})
    assert two["parameters"] == "DTensor"
    assert len(two["losses"]) == 20
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)


@pytest.mark.slow
def test_two_zero3_processes_give_the_losses_of_one(tmp_path):
    pytest.importorskip("deepspeed")
    one = run_training.train(tmp_path / "one", {"per_device_train_batch_size": 8})
    # Without a threshold of 0, parameters as small as these are not sharded.
    stage = {"stage": 3, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    auto = dict.fromkeys(("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"), "auto")
    (tmp_path / "zero3.json").write_text(json.dumps({"zero_optimization": stage} | auto))
    zero3 = ["--use_deepspeed", "--deepspeed_config_file", str(tmp_path / "zero3.json")]
    two = launch(tmp_path / "two", {"per_device_train_batch_size": 4, "save": True}, zero3)
    assert two["parameters"] == 0, "the parameters are gathered: nothing was sharded"
    assert len(two["losses"]) == 20
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "two" / "model")


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{"prefixes": "random", "prefixes_per_pair": 2}, {"of_advantages": True}], ids=["rewards", "advantages"]
)
def test_a_killed_run_resumes_with_the_losses_of_an_uninterrupted_one(tmp_path, more):
    settings = {"save_strategy": "steps", "save_steps": 4} | more
    whole = run_training.train(tmp_path / "whole", dict(settings))
    _, code = start([sys.executable], tmp_path / "killed", settings | {"kill_at": 10})
    assert code == -9
    resumed, code = start([sys.executable], tmp_path / "killed", settings | {"resume": True})
    assert code == 0, resumed
    assert resumed["losses"] == pytest.approx(whole["losses"], abs=1e-6)
