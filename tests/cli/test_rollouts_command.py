"""`rgtg-hf rollouts` writes what the function returns, goes on after a kill, and shares its work."""

import json
import os
import subprocess
import sys

import pytest

from rgtg_hf.cli.main import main
from tests.cli.test_main import one_line_error

PROMPTS = "Why?\nTell me more about the sea.\nWho?\n"


@pytest.fixture
def arguments(policy_folder, reward_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    files = ["--prompts", str(tmp_path / "prompts.txt"), "--reward", reward_folder]
    return [
        "rollouts",
        "--model",
        policy_folder,
        *files,
        "--num_responses",
        "2",
        "--batch_size",
        "4",
        "--max_new_tokens",
        "5",
    ]


def rows_in(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_rows_come_in_the_order_of_the_prompts(arguments, tmp_path, capsys):
    assert main([*arguments, "--output", str(tmp_path / "out.jsonl")]) == 0
    rows = rows_in(tmp_path / "out.jsonl")
    assert [row["index"] for row in rows] == list(range(6))
    assert [row["prompt"][0]["content"] for row in rows] == [one for one in PROMPTS.splitlines() for _ in range(2)]
    assert all(len(row["completion_ids"]) == row["tokens"] <= 5 for row in rows)
    assert "6 rollouts, rewards" in capsys.readouterr().out


def test_a_run_that_was_killed_goes_on_and_several_processes_write_the_same(arguments, tmp_path, monkeypatch):
    from rgtg_hf.cli.partial import PartialOutput

    assert main([*arguments, "--output", str(tmp_path / "whole.jsonl")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(PartialOutput, "finish", PartialOutput.close)  # as if killed at the last moment
        patch.setattr("rgtg_hf.cli.rollouts_command._finish", lambda options: None)
        assert main([*arguments, "--output", str(tmp_path / "out.jsonl")]) == 0
    partial = tmp_path / "out.jsonl.partial"
    partial.write_bytes(partial.read_bytes()[:-300])
    assert main([*arguments, "--output", str(tmp_path / "out.jsonl")]) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()

    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "rgtg_hf.cli.main"]
    command = [*launch, *arguments, "--output", str(tmp_path / "shared.jsonl")]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_the_pairs_train_a_reward_model(arguments, policy_folder, tmp_path):
    pairs, trained = str(tmp_path / "pairs.jsonl"), str(tmp_path / "reward_model")
    assert main([*arguments, "--output", str(tmp_path / "out.jsonl"), "--pairs", pairs]) == 0
    options = ["--report_to", "none", "--bf16", "False", "--max_steps", "1", "--output_dir", trained]
    assert main(["train", "--model_name_or_path", policy_folder, "--dataset_name", pairs, *options]) == 0
    assert (tmp_path / "reward_model" / "model.safetensors").exists()


@pytest.mark.parametrize("guide", ["reward_folder", "head_folder"])
def test_a_second_round_is_guided_and_weighed(arguments, guide, request, tmp_path):
    guide = ["--guide", request.getfixturevalue(guide), "--beta", "3"]
    assert main([*arguments, *guide, "--output", str(tmp_path / "out.jsonl")]) == 0
    rows = rows_in(tmp_path / "out.jsonl")
    assert all(len(row["log_ratios"]) == row["tokens"] for row in rows)
    assert any(abs(ratio) > 0.1 for row in rows for ratio in row["log_ratios"])
    # Guided by nothing, they are what the policy writes.
    assert main([*arguments, *guide[:2], "--beta", "0", "--output", str(tmp_path / "none.jsonl")]) == 0
    assert main([*arguments, "--output", str(tmp_path / "own.jsonl")]) == 0
    assert rows_in(tmp_path / "none.jsonl") == rows_in(tmp_path / "own.jsonl")


def test_mistakes_are_told_before_a_model_is_loaded(arguments, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out.jsonl")]
    assert "--num_responses is 0" in one_line_error(capsys, [*arguments, *output, "--num_responses", "0"])
    assert "--reward: there is no judge 'vadr'" in one_line_error(capsys, [*arguments, *output, "--reward", "vadr"])
    (tmp_path / "pairs.jsonl").write_text("mine")
    pairs = ["--pairs", str(tmp_path / "pairs.jsonl")]
    assert "pairs.jsonl exists" in one_line_error(capsys, [*arguments, *output, *pairs])
    assert "--beta is a setting of --guide" in one_line_error(capsys, [*arguments, *output, "--beta", "2"])
    assert "--guide: no/such/model" in one_line_error(
        capsys, [*arguments, *output, "--guide", "no/such/model/"]
    ).replace("'", "")
    assert not (tmp_path / "out.jsonl").exists()
