"""`rgtg-hf rate` gives each response in a file a reward, and leaves the rest of its row as it is."""

import json
from pathlib import Path

import pytest

from rgtg_hf.cli.main import main
from tests.cli.test_main import one_line_error

JUDGE = "def length(prompts, responses):\n    return [float(len(p + r)) for p, r in zip(prompts, responses)]\n"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    (tmp_path / "length_judge.py").write_text(JUDGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def write(rows):
    Path("responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_in(name):
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


def messages(role, text):
    return [{"role": role, "content": text}]


def rate(*more):
    return ["rate", "responses.jsonl", "--reward", "length_judge:length", "--output", "rated.jsonl", *more]


def test_rows_keep_what_they_had_and_get_the_new_reward(capsys):
    rows = [
        {"prompt": "Why?", "completion": "Because.", "reward": -1.0, "source": "mine"},
        {"prompt": messages("user", "Who?"), "completion": messages("assistant", "Me")},
        {"prompt": "Where?", "completion": ""},
    ]
    write(rows)
    assert main(rate("--batch_size", "2")) == 0
    rewards = [12.0, 6.0, 6.0]
    rated = [row | {"index": place, "reward": one} for place, (row, one) in enumerate(zip(rows, rewards, strict=True))]
    assert rows_in("rated.jsonl") == rated
    assert "3 responses, rewards 6 to 12, mean 8" in capsys.readouterr().out


def test_rollouts_rated_again_are_those_written_for_the_other_reward(policy_folder, capsys):
    Path("prompts.txt").write_text("Why?\nWho?\n")
    options = ["--model", policy_folder, "--prompts", "prompts.txt", "--num_responses", "2", "--max_new_tokens", "5"]
    assert main(["rollouts", *options, "--reward", "flesch", "--output", "responses.jsonl"]) == 0
    assert main(["rollouts", *options, "--reward", "length_judge:length", "--output", "written.jsonl"]) == 0
    assert main(rate()) == 0
    assert rows_in("rated.jsonl") == rows_in("written.jsonl")


def test_a_run_that_was_killed_goes_on(monkeypatch):
    from rgtg_hf.cli.partial import PartialOutput

    write([{"prompt": "Q", "completion": "a" * number} for number in range(5)])
    with monkeypatch.context() as patch:
        patch.setattr("rgtg_hf.evaluation.gold_models.rate", stop_at_the_third)
        assert main(rate("--batch_size", "2")) == 130
    kept = Path("rated.jsonl.partial").read_bytes()
    assert len(kept.splitlines()) == 3
    finish = PartialOutput.finish
    monkeypatch.setattr(PartialOutput, "finish", lambda output: (check(output, kept), finish(output)))
    assert main(rate("--batch_size", "2")) == 0
    assert [row["reward"] for row in rows_in("rated.jsonl")] == [1.0, 2.0, 3.0, 4.0, 5.0]


def stop_at_the_third(reward, prompts, responses):
    if "aa" in responses:
        raise KeyboardInterrupt
    return reward(prompts, responses)


def check(output, kept):
    assert output.path.read_bytes().startswith(kept)


def test_mistakes_are_told_in_one_line(capsys):
    write([{"prompt": "Q", "completion": "A"}, {"prompt": "Q", "response": "A"}])
    assert "line 2 of responses.jsonl has no usable `completion`" in one_line_error(capsys, rate())
    write([])
    assert "responses.jsonl has no rows" in one_line_error(capsys, rate())
    write([{"prompt": "Q", "completion": "A"}])
    assert "--batch_size is 0" in one_line_error(capsys, rate("--batch_size", "0"))
    assert "no module 'nobody'" in one_line_error(capsys, [*rate(), "--reward", "nobody:here"])
    Path("rated.jsonl").write_text("mine")
    assert "rated.jsonl exists" in one_line_error(capsys, rate())
    assert Path("rated.jsonl").read_text() == "mine"
