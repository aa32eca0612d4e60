import pytest

from rgtg_hf.cli.main import main


@pytest.fixture
def command(policy_folder, reward_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return ["inspect", "--model", policy_folder, "--reward_model", reward_folder, "--max_new_tokens", "4", "Hi!"]


def test_a_page_without_places_is_written_and_replaced(command, capsys, tmp_path):
    assert main([*command, "--beta", "2"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("guided:   reward ")
    assert out.splitlines()[-1] == "inspect.html"
    page = (tmp_path / "inspect.html").read_text("utf-8")
    assert "beta 2 · 10 candidates per step · sampled with seed 0" in page
    assert str(tmp_path.parent) not in page
    assert main([*command, "--greedy"]) == 0
    assert "greedy decoding" in (tmp_path / "inspect.html").read_text("utf-8")


def test_a_file_of_somebody_else_is_left_alone(command, capsys, tmp_path):
    (tmp_path / "inspect.html").write_text("<h1>mine</h1>")
    assert main(command) == 2
    assert "is not a page of rgtg-hf" in capsys.readouterr().err
    assert (tmp_path / "inspect.html").read_text() == "<h1>mine</h1>"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--output", "gone/page.html"], "the folder gone does not exist"),
        (["--output", "."], "is a folder"),
        (["--max_new_tokens", "0"], "--max_new_tokens is 0"),
        (["--beta", "inf"], "--beta is inf"),
        (["--model", "./gone"], "'./gone' does not exist"),
    ],
)
def test_mistakes_are_told_in_one_line(command, options, says, capsys):
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_an_empty_prompt_is_refused(command, capsys):
    assert main([*command[:-1], " "]) == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_models_that_do_not_fit_are_refused(policy_folder, foreign_reward_folder, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "--model", policy_folder, "--reward_model", foreign_reward_folder, "Hi!"]) == 2
    assert "different vocabularies" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
