import gzip
import json

import pytest

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.preferences import check_columns, load_preferences
from rgtg_hf.cli.train.train_kinds import HEADS, VALUES

ROWS = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "d", "chosen": "e", "rejected": "f"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO")  # datasets before 5.2 leaves a file open
def test_local_files_of_every_format_give_the_same_rows(tmp_path):
    import pandas

    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    pandas.DataFrame(ROWS).to_csv(tmp_path / "a.csv", index=False)
    pandas.DataFrame(ROWS).to_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.jsonl.gz", "a.csv", "a.parquet"):
        assert load_preferences(str(tmp_path / name), None, "train").to_list() == ROWS, name


def test_folder_of_files_is_a_data_set(tmp_path):
    (tmp_path / "train.jsonl").write_text(LINES)
    (tmp_path / "test.jsonl").write_text(LINES.splitlines()[0] + "\n")
    assert len(load_preferences(str(tmp_path), None, "train")) == 2
    assert len(load_preferences(str(tmp_path), None, "test")) == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone.jsonl", None, "does not exist"),
        ("a.docx", "x", "unknown format"),
        ("a.jsonl", "", "cannot be read|has no rows"),
        ("a.jsonl", "no json", "line 1 of .* is not JSON"),
    ],
)
def test_unreadable_data_is_refused(tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says):
        check_columns(load_preferences(str(tmp_path / name), None, "train"), name)


def test_missing_split_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES)
    with pytest.raises(UserError, match="test"):
        load_preferences(str(tmp_path / "a.jsonl"), None, "test")


def test_rows_without_both_responses_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n')
    with pytest.raises(UserError, match=r"no column rejected \(it has: prompt, chosen\); rows need `chosen` and"):
        check_columns(load_preferences(str(tmp_path / "a.jsonl"), None, "train"), "a.jsonl")


def test_ratings_without_a_prompt_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"completion": "a", "reward": 1.0}\n')
    rows = load_preferences(str(tmp_path / "a.jsonl"), None, "train")
    for kind in (VALUES, HEADS):
        with pytest.raises(UserError, match="no column prompt"):
            check_columns(rows, "a.jsonl", kind.columns)
    check_columns(rows.rename_column("completion", "chosen").add_column("rejected", ["b"]), "a.jsonl")
