import json
import subprocess

import pytest

from rgtg_hf.evaluation.report import (
    ReportRow,
    describe_hardware,
    describe_versions,
    find_commit,
    report_row,
    write_json,
)


def test_row_compares_with_the_unguided_policy_on_the_same_prompts():
    row = report_row("guided", 3.0, [0.5, 0.9], [0.1, 0.3], [1.0, 3.0], 50.0)
    assert (row.gold_mean, row.paired_diff, row.kl) == (pytest.approx(0.7), pytest.approx(0.5), 2.0)
    assert row.paired_se == pytest.approx(0.1)


def test_written_report_has_the_promised_columns(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, [ReportRow("unguided", 0.0, 0.1, 0.05, 0.0, 0.0, 0.0, 9.0)], seed=7, commit=None)
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
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "file").write_text("c")
    git("add", "part")
    git("commit", "--quiet", "-m", "second")
    assert find_commit(tmp_path / "part") == git("rev-parse", "HEAD")  # its own files are unchanged


def test_hardware_names_the_processor_and_its_cores():
    hardware = describe_hardware()
    assert hardware["cpu"]
    assert hardware["cores"] >= 1
    assert set(hardware) == {"cpu", "cores", "threads", "accelerator"}
