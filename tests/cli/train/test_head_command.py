"""`rgtg-hf train-head` goes from rollouts to a steering head that steers."""

import json

import pytest

from rgtg_hf.cli.main import main

pytest.importorskip("trl")
OPTIONS = ["--report_to", "none", "--bf16", "False", "--max_steps", "2", "--logging_steps", "1"]


def test_a_head_is_trained_and_steers(rollouts, policy_folder, tmp_path, capsys):
    trained = str(tmp_path / "head")
    model = ["--model_name_or_path", policy_folder]
    evaluated = ["--eval_strategy", "steps", "--eval_steps", "1", "--dataset_test_split", "train"]
    options = ["--dataset_name", rollouts, "--output_dir", trained, *OPTIONS, *evaluated]
    assert main(["train-head", *model, *options]) == 0
    shown = capsys.readouterr().out
    assert "gain at 1 nat" in shown
    assert f"The steering head is in {trained}." in shown
    assert json.loads((tmp_path / "head" / "config.json").read_text())["reward_unit"] > 0
    assert "eval_gain_at_1_nat" in (tmp_path / "head" / "training_log.jsonl").read_text()
    models = ["--model", policy_folder, "--reward_model", trained, "--max_new_tokens", "4"]
    assert main(["generate", *models, "Why?"]) == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--use_peft"], "--use_peft is for models with layers to train"),
        (["--num_layers", "2"], "a head reads the whole policy"),
        (["--top_k", "1"], "no choice among fewer than 2"),
    ],
)
def test_options_of_models_with_layers_are_refused(rollouts, policy_folder, tmp_path, capsys, given, words):
    model = ["--model_name_or_path", policy_folder, "--dataset_name", rollouts]
    assert main(["train-head", *model, "--output_dir", str(tmp_path / "out"), *OPTIONS, *given]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
