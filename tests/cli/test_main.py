import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from rgtg_hf.cli.main import main

ROOT = Path(__file__).parents[2]


def one_line_error(capsys, arguments):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rgtg-hf: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "generate", "demo"))


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["demo", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from rgtg_hf.cli.main import main\n"
        "try:\n"
        f"    main({arguments})\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'rich', 'matplotlib'} & sys.modules.keys()\n"
        "heavy -= {'rich'} if 'httpx' in sys.modules else set()\n"  # it imports rich where that is installed
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_unknown_command_is_one_line(capsys):
    assert "'tran'" in one_line_error(capsys, ["tran"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "--reward_model", "a/b", "hi"], "--model"),
        (["generate", "--model", "./gone", "--reward_model", "a/b", "hi"], "'./gone' does not exist"),
        (["generate", "--model", "a/b", "--reward_model", "/gone/rm", "hi"], "'/gone/rm' does not exist"),
        (["generate", "--model", "a/b", "--reward_model", "a/b", "--beta", "nan", "hi"], "--beta is nan"),
        (["generate", "--model", "a/b", "--reward_model", "a/b", "--beta", "x", "hi"], "--beta"),
        (["generate", "--model", "a/b", "--reward_model", "a/b", "--top_k", "-1", "hi"], "--top_k is -1"),
        (["generate", "--model", "a/b", "--reward_model", "a/b", "--temperature", "0", "hi"], "--greedy"),
        (["generate", "--model", "a/b", "--reward_model", "a/b"], "no prompt was given"),
        (["generate", "--model", "a/b", "--reward_model", "a/b", " "], "a prompt is empty"),
        (["generate", "--model", "a/b", "--reward_model", "a/b", "--prompts", "gone.txt"], "gone.txt cannot be read"),
        (["demo", "--betas", "inf"], "--beta is inf"),
        (["demo", "--top_k", "0"], "--top_k is 0"),
        (["demo", "--num_prompts", "0"], "--num_prompts is 0"),
        (["train", "--model_name_or_path", "./gone"], "'./gone' does not exist"),
        (["train", "--config", "gone.yaml"], "gone.yaml is not a file"),
    ],
)
def test_mistakes_are_told_in_one_line_before_any_work(capsys, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in one_line_error(capsys, arguments)
    assert not list(tmp_path.iterdir())


def test_the_reference_page_is_what_the_commands_say():
    # Run docs/make_command_reference.py when an option has changed.
    made = runpy.run_path(str(ROOT / "docs" / "make_command_reference.py"))
    assert (ROOT / "docs" / "reference" / "command-line.md").read_text("utf-8") == made["page"]()
