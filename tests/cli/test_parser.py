import re

import pytest

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.main import COMMANDS, main
from rgtg_hf.cli.parser import LineParser


def help_of(command, monkeypatch, capsys, columns=100):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit, match=r"^0$"):
        main([command, "--help"])
    return capsys.readouterr().out


def test_a_mistake_in_the_options_is_a_user_error():
    parser = LineParser("test", "Tries something.")
    with pytest.raises(UserError, match=r"unrecognized arguments: --no .*see `rgtg-hf test --help`"):
        parser.parse_args(["--no"])


def test_an_option_ends_with_its_choices_and_its_default(capsys):
    parser = LineParser("test", "Tries something.", examples=["rgtg-hf test --beta 2"])
    add = parser.group("guidance", "How it is steered.")
    add("--beta", type=float, default=1.0, help="strength")
    add("--ns", type=int, nargs="+", default=[2, 4], help="numbers")
    add("--scorer", choices=["auto", "expand"], help="kind")
    add("--model", required=True, help="the policy")
    add("--greedy", action="store_true", help="no sampling")
    parser.print_help()
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert re.split(r"\s{2,}", lines[lines.index("guidance:") + 3]) == ["--beta X", "strength (default: 1.0)"]
    assert any(line.endswith("numbers (default: 2 4)") for line in lines)
    assert any(line.endswith("kind (auto, expand)") for line in lines)
    assert any(line.endswith("the policy (required)") for line in lines)
    assert any(line.endswith("no sampling") for line in lines)
    assert lines[-2:] == ["examples:", "rgtg-hf test --beta 2"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_one_line(command, monkeypatch, capsys):
    text = help_of(command, monkeypatch, capsys)
    options = re.findall(r"^  (-?-?\w+.*)$", text.split("examples:")[0], re.MULTILINE)
    assert len(options) >= 2
    assert not re.findall(r"^ {10,}.*$", text, re.MULTILINE), "an option is longer than its line"
    assert "None" not in text
