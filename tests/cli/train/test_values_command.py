"""`rgtg-hf train-values` goes from rollouts to a value model that steers."""

import json

import pytest

from rgtg_hf.cli.main import main

pytest.importorskip("trl")
OPTIONS = ["--report_to", "none", "--bf16", "False", "--max_steps", "2", "--logging_steps", "1"]


def test_a_value_model_is_trained_and_steers(rollouts, policy_folder, tmp_path, capsys):
    trained = str(tmp_path / "values")
    model = ["--model_name_or_path", policy_folder, "--num_layers", "2"]
    assert main(["train-values", *model, "--dataset_name", rollouts, "--output_dir", trained, *OPTIONS]) == 0
    shown = capsys.readouterr().out
    assert "error, prompt" in shown
    assert f"The value model is in {trained}." in shown
    assert json.loads((tmp_path / "values" / "config.json").read_text())["value_range"]
    assert "squared_error_at_0" in (tmp_path / "values" / "training_log.jsonl").read_text()
    models = ["--model", policy_folder, "--reward_model", trained, "--max_new_tokens", "4"]
    assert main(["generate", *models, "--value_beta", "beta", "Why?"]) == 0
    assert main(["generate", *models, "--value_beta", "2", "--search", "best", "Why?"]) == 0


def test_pairs_are_refused_by_their_columns(policy_folder, tmp_path, capsys):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    arguments = ["--model_name_or_path", policy_folder, "--dataset_name", str(tmp_path / "pairs.jsonl")]
    assert main(["train-values", *arguments, "--output_dir", str(tmp_path / "out"), *OPTIONS]) == 2
    said = capsys.readouterr().err
    assert "has no column completion and no column reward" in said
    assert "rows need `prompt`, `completion` and `reward`\n" in said
    assert not (tmp_path / "out").exists()
