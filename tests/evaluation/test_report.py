import json
import subprocess

import pytest

from rgtg_hf.evaluation.report import ReportRow, describe_versions, find_commit, report_row, write_json


def test_row_compares_with_the_unsteered_policy_on_the_same_prompts():
    row = report_row("steered", 3.0, [0.5, 0.9], [0.1, 0.3], [1.0, 3.0], 50.0)
    assert (row.gold_mean, row.paired_diff, row.kl) == (pytest.approx(0.7), pytest.approx(0.5), 2.0)
    assert row.paired_se == pytest.approx(0.1)


def test_written_report_has_the_promised_columns(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, [ReportRow("unsteered", 0.0, 0.1, 0.05, 0.0, 0.0, 0.0, 9.0)], seed=7, commit=None)
    report = json.loads(path.read_text())
    columns = ["method", "beta", "gold_mean", "gold_se", "paired_diff", "paired_se", "kl", "tokens_per_s"]
    assert list(report["rows"][0]) == columns
    assert report["seed"] == 7
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_missing_packages_are_named_without_a_version():
    versions = describe_versions(["torch", "no-such-package"])
    assert versions["torch"]
    assert versions["no-such-package"] is None


def test_commit_is_that_of_the_repository_that_tracks_the_folder(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    assert find_commit(tmp_path) is None
    (tmp_path / "file").write_text("a")
    (tmp_path / "untracked").mkdir()
    git("add", "file")
    git("commit", "--quiet", "-m", "first")
    assert find_commit(tmp_path) == git("rev-parse", "HEAD")
    assert find_commit(tmp_path / "untracked") is None
    (tmp_path / "file").write_text("b")
    assert find_commit(tmp_path).endswith("-dirty")


def test_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from rgtg_hf.evaluation.chart import draw_reward_vs_kl

    rows = [ReportRow("m", beta, 0.2 + beta / 10, 0.05, 0.0, 0.0, beta**2, 9.0) for beta in (0.0, 1.0, 2.0)]
    draw_reward_vs_kl(rows, tmp_path / "chart.png", title="Title", reward_name="Sentiment")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
