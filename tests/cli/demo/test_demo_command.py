import json

import pytest

from rgtg_hf.cli.main import main

pytest.importorskip("vaderSentiment")
pytest.importorskip("matplotlib")


@pytest.fixture
def demo(policy_folder, tmp_path):
    def run(*extra):
        quick = ["--max_steps", "2", "--num_layers", "1", "--max_new_tokens", "6", "--num_prompts", "3"]
        return main(["demo", "--model", policy_folder, "--output_dir", str(tmp_path / "demo"), *quick, *extra])

    return run


def test_demo_writes_what_it_promises_and_uses_its_reward_model_again(demo, tmp_path, capsys):
    assert demo("--betas", "4", "1") == 0
    printed = capsys.readouterr().out
    assert "guided, beta=4" in printed
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert [(row["method"], row["beta"]) for row in report["rows"]] == [
        ("unguided", 0.0),
        ("guided", 1.0),
        ("guided", 4.0),
    ]
    assert {"versions", "commit", "seed", "training", "texts"} <= report.keys()
    unguided, weak, strong = report["rows"]
    assert unguided["kl"] == unguided["paired_diff"] == 0
    assert 0 < weak["kl"] < strong["kl"]
    assert (tmp_path / "demo" / "reward_vs_kl.png").stat().st_size > 0
    assert str(tmp_path.parent) not in (tmp_path / "demo" / "report.json").read_text()
    assert not [file for file in (tmp_path / "demo").rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]

    head = (tmp_path / "demo" / "reward_model" / "model.safetensors").stat().st_mtime_ns
    assert demo("--betas", "2") == 0
    assert "Using the reward model of an earlier run" in capsys.readouterr().out
    assert (tmp_path / "demo" / "reward_model" / "model.safetensors").stat().st_mtime_ns == head
    assert demo("--betas", "2", "--retrain") == 0
    assert (tmp_path / "demo" / "reward_model" / "model.safetensors").stat().st_mtime_ns > head


def test_demo_refuses_a_foreign_folder(demo, tmp_path, capsys):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("precious")
    assert demo() == 2
    assert "was not made by rgtg-hf" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "demo").iterdir()] == ["thesis.tex"]


def test_the_quick_demo_steers_by_a_head(demo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rgtg_hf.cli.demo.demo_training._HEAD_PAIRS", 4)
    assert demo("--quick") == 0
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert [row["beta"] for row in report["rows"]] == [0.0, 2.0, 4.0]
    assert report["training"]["kind"] == "steering head"
    assert report["training"]["num_pairs"] == 4
    assert 0 < report["rows"][1]["kl"] < report["rows"][2]["kl"]
    assert (tmp_path / "demo" / "steering_head" / "config.json").exists()
