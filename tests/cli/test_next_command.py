"""Commands end with the one to try next, where somebody reads it."""

import shlex

from rgtg_hf.cli.next_command import suggest


def test_a_terminal_gets_a_line_that_can_be_pasted(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    words = ("rgtg-hf", "generate", "--model", "my folder", "What's that?")
    suggest(*words)
    captured = capsys.readouterr()
    assert captured.out == ""
    label, command = captured.err.strip().split(" ", 1)
    assert label == "Next:"
    assert tuple(shlex.split(command)) == words


def test_a_log_file_gets_nothing(capsys):
    suggest("rgtg-hf", "demo")
    assert capsys.readouterr() == ("", "")
