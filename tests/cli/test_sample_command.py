"""The sample files are ones that the other commands read, and no prompt is among the pairs."""

import pytest

from rgtg_hf.cli.main import main
from rgtg_hf.cli.preferences import check_columns, load_preferences
from rgtg_hf.cli.prompt_files import read_prompts
from tests.cli.test_main import one_line_error


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_files_can_be_read_by_train_and_by_evaluate(capsys):
    assert main(["sample", "pairs.jsonl", "prompts.jsonl", "training.jsonl"]) == 0
    pairs = load_preferences("pairs.jsonl", None, "train")
    check_columns(pairs, "pairs.jsonl")
    prompts, training = read_prompts([], "prompts.jsonl"), read_prompts([], "training.jsonl")
    assert capsys.readouterr().out == (
        f"pairs.jsonl: {len(pairs)} preference pairs\nprompts.jsonl: {len(prompts)} prompts\n"
        f"training.jsonl: {len(training)} prompts\n"
    )
    assert pairs.column_names == ["prompt", "chosen", "rejected"]
    assert len(pairs) > 500
    assert not set(prompts) & {row["prompt"][-1]["content"] for row in pairs}
    assert len(training) > 200
    assert not set(prompts) & set(training)


def test_a_file_that_exists_is_not_replaced_and_nothing_is_written(tmp_path, capsys):
    (tmp_path / "prompts.jsonl").write_text("mine")
    assert "prompts.jsonl exists" in one_line_error(capsys, ["sample", "pairs.jsonl", "prompts.jsonl"])
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]
    assert "gone/pairs.jsonl cannot be written" in one_line_error(capsys, ["sample", "gone/pairs.jsonl"])
