import pytest

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.output_dir import check_output_dir, claim_output_dir, read_marker


def test_new_empty_and_own_folders_are_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new/deep", "empty"):
        claim_output_dir(tmp_path / name, step=1)
        claim_output_dir(tmp_path / name, step=2)
        assert read_marker(tmp_path / name)["step"] == 2


def test_foreign_folders_and_files_are_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="was not made by rgtg-hf"):
        claim_output_dir(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        check_output_dir(tmp_path / "thesis.tex")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        claim_output_dir(tmp_path / "file" / "below")
