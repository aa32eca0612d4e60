import json
from argparse import Namespace

import pytest

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.evaluate.evaluate_report import write_report

PROMPTS = ["one", "two", "three"]
SETTINGS = {
    **{"gold": "judge", "second_gold": None, "top_k": 5, "max_new_tokens": 4, "seed": 0, "pairs": None},
    **{"output": "o", "device": "cpu"},
}


@pytest.fixture
def folder(tmp_path):
    """The texts of two methods, as the command leaves them."""
    rows = [
        {
            "index": len(PROMPTS) * number + place,
            "method": method,
            "strength": strength,
            "response": "x" * (place + number + 1),
            "tokens": place + 1,
            "ids": [5] * (place + 1),
            "kl": float(number),
            "log_likelihood": -3.0,
            "steering_reward": None,
            "seconds": 0.5,
            "reward_model_tokens": 4.0 * number,
        }
        for number, (method, strength) in enumerate([("policy", 0.0), ("pargs", 1.0), ("pargs", 2.0)])
        for place in range(len(PROMPTS))
    ]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def length(prompts, texts):
    return [float(len(text)) for text in texts]


def test_the_report_holds_every_method_and_compares_them(folder, capsys):
    write_report(folder, Namespace(**SETTINGS), PROMPTS, length)
    report = json.loads((folder / "report.json").read_text())
    assert report["gold"] == {"policy 0": [1, 2, 3], "pargs 1": [2, 3, 4], "pargs 2": [3, 4, 5]}
    assert report["settings"]["gold"] == "judge"
    assert "output" not in report["settings"]
    assert report["at_equal_kl"][0]["pargs"]["gold"] == pytest.approx(2.5)  # half way between policy and beta 1
    assert "2.00 ± 0.58" in capsys.readouterr().out
    assert "2 ± 0.58" in (folder / "report.md").read_text()
    assert (folder / "reward_vs_kl.png").exists()


def test_a_gold_reward_must_judge_every_response(folder):
    with pytest.raises(UserError, match="judge cannot be used: The reward returned 1 numbers for 3"):
        write_report(folder, Namespace(**SETTINGS), PROMPTS, lambda prompts, texts: [0.0])


def test_a_second_judge_tells_of_methods_that_only_the_first_one_likes(folder, capsys):
    def brevity(prompts, texts):
        return [9 - 2 * number for number in length(prompts, texts)]

    write_report(folder, Namespace(**SETTINGS | {"second_gold": "brevity"}), PROMPTS, length, brevity)
    report = json.loads((folder / "report.json").read_text())
    assert report["second_gold"] == {"policy 0": [7, 5, 3], "pargs 1": [5, 3, 1], "pargs 2": [3, 1, -1]}
    row = report["rows"][2]
    assert (row["gain"], row["second_gold"]) == (2.0, 1.0)
    assert (row["second_gain_low"], row["second_gain_high"]) == (-4.0, -4.0)
    warning = " ".join(capsys.readouterr().err.split())
    assert "the gold reward rises and the second one falls for: pargs 1, pargs 2" in warning
    text = (folder / "report.md").read_text()
    assert "Second gold reward: brevity" in text
    assert "| 1 ± 1.2 [-4, -4] |" in text


def test_a_second_judge_that_agrees_gives_no_warning(folder, capsys):
    write_report(folder, Namespace(**SETTINGS | {"second_gold": "length"}), PROMPTS, length, length)
    assert "Warning" not in capsys.readouterr().err


def test_without_a_second_judge_there_is_no_column_for_it(folder):
    write_report(folder, Namespace(**SETTINGS), PROMPTS, length)
    assert "second" not in (folder / "report.md").read_text().casefold()


def test_a_folder_is_named_without_its_path(folder):
    write_report(folder, Namespace(**SETTINGS | {"gold": str(folder)}), PROMPTS, length)
    for name in ("report.json", "report.md"):
        assert str(folder.parent) not in (folder / name).read_text()
