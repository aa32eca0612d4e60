"""A file is there whole or as it was; full disks are in tests/faults/test_disk.py."""

import os
import threading

import pytest

from rgtg_hf.files import write_whole


def test_a_file_is_written_as_utf8_and_replaced(tmp_path):
    for text in ("before", "naïve 水\n"):
        write_whole(str(tmp_path / "a.txt"), text)
        assert (tmp_path / "a.txt").read_bytes() == text.encode("utf-8")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_text_that_cannot_be_written_leaves_what_was_there(tmp_path):
    write_whole(tmp_path / "a.txt", "before")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a.txt", "x" * 10_000 + "\ud800")
    assert (tmp_path / "a.txt").read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    write_whole(tmp_path / "link.txt", "text")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "a.txt").read_text() == "text"


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_whole(pipe, "text")
    reader.join()
    assert read == ["text"]
    assert pipe.is_fifo()
