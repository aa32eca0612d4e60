import json

import pytest

from rgtg_hf.cli.batch import BatchRow, plan_batches
from rgtg_hf.cli.main import main

PROMPTS = [
    {"prompt": "Short?"},
    {"prompt": "A much longer prompt than the others, to be sure."},
    {"prompt": [{"role": "user", "content": "Messages"}], "beta": 0},
    {"prompt": "Middle length?", "max_new_tokens": 3},
    {"prompt": "Tiny"},
]


@pytest.fixture
def generate(policy_folder, reward_folder, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))

    def run(output, *extra):
        models = ["--model", policy_folder, "--reward_model", reward_folder]
        arguments = ["--prompts", str(file), "--output", str(output), "--max_new_tokens", "8", "--batch_size", "2"]
        return main(["generate", *models, *arguments, *extra])

    return run


def test_rows_come_in_the_order_of_the_prompts_with_their_own_settings(generate, tmp_path):
    assert generate(tmp_path / "out.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in PROMPTS]
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["beta"] for row in rows] == [1, 1, 0, 1, 1]
    assert rows[3]["tokens"] <= 3
    assert not (tmp_path / "out.jsonl.partial").exists()


@pytest.mark.parametrize("kept_bytes", [0.0, 0.1, 0.4, 0.6, 0.9, 1.0])
def test_interrupted_run_goes_on_to_what_an_undisturbed_one_writes(generate, tmp_path, kept_bytes, monkeypatch):
    from rgtg_hf.cli.batch import PartialOutput

    assert generate(tmp_path / "whole.jsonl") == 0
    with monkeypatch.context() as patch:
        patch.setattr(PartialOutput, "finish", PartialOutput.close)  # as if killed at the last moment
        assert generate(tmp_path / "out.jsonl") == 0
    partial = tmp_path / "out.jsonl.partial"
    content = partial.read_bytes()
    partial.write_bytes(content[: int(len(content) * kept_bytes)])
    assert generate(tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_run_that_is_interrupted_twice_leaves_whole_lines(generate, tmp_path, monkeypatch):
    from rgtg_hf.cli.batch import PartialOutput

    monkeypatch.setattr(PartialOutput, "finish", PartialOutput.close)
    partial = tmp_path / "out.jsonl.partial"
    assert generate(tmp_path / "out.jsonl") == 0
    content = partial.read_bytes()
    partial.write_bytes(content[:-20])
    assert generate(tmp_path / "out.jsonl") == 0
    assert partial.read_bytes() == content


def test_going_on_with_other_settings_is_refused(generate, tmp_path, capsys, monkeypatch):
    from rgtg_hf.cli.batch import PartialOutput

    with monkeypatch.context() as patch:
        patch.setattr(PartialOutput, "finish", PartialOutput.close)
        assert generate(tmp_path / "out.jsonl") == 0
    before = (tmp_path / "out.jsonl.partial").read_bytes()
    assert generate(tmp_path / "out.jsonl", "--seed", "5") == 2
    assert "begun with other prompts or settings" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl.partial").read_bytes() == before


def test_foreign_files_are_left_alone(generate, tmp_path, capsys):
    refused = "begun with other prompts"
    for name, content, says in (
        ("a.jsonl", "precious\n", "a.jsonl exists"),
        ("b.jsonl.partial", "precious\n", refused),
        ("c.jsonl.partial", "precious", refused),
    ):
        (tmp_path / name).write_text(content)
        assert generate(tmp_path / name.removesuffix(".partial")) == 2
        assert says in capsys.readouterr().err
        assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("setting", [{"beta": "strong"}, {"beta": True}, {"max_new_tokens": 0}])
def test_unusable_settings_of_a_row_are_refused(generate, tmp_path, capsys, setting):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a"} | setting) + "\n")
    assert generate(tmp_path / "out.jsonl") == 2
    assert f"`{next(iter(setting))}` of prompt 1" in capsys.readouterr().err


def test_batches_hold_rows_of_one_kind_and_like_length():
    rows = [BatchRow(i, "x" * n, beta, 8) for i, (n, beta) in enumerate([(5, 1), (50, 1), (6, 1), (51, 1), (7, 2)])]
    batches = plan_batches(rows, lambda row: len(row.prompt), batch_size=2)
    assert [[row.index for row in batch] for batch in batches] == [[3, 1], [2, 0], [4]]
