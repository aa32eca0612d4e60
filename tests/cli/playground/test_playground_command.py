import asyncio

import pytest

from rgtg_hf.cli.main import main


async def within_a_loop(function, *arguments):  # see test_playground_app.py
    return function(*arguments)


def test_it_listens_to_this_machine_alone_unless_told(policy_folder, reward_folder, monkeypatch):
    from rgtg_hf.cli.playground.playground_app import Playground

    calls = []
    monkeypatch.setattr(Playground, "launch", lambda self, **settings: calls.append(settings))
    command = ["playground", "--model", policy_folder, "--reward_model", reward_folder]
    assert asyncio.run(within_a_loop(main, command)) == 0
    assert calls == [{"server_name": "127.0.0.1", "server_port": None, "share": False}]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--beta", "11"], "the slider goes from"),
        (["--port", "0"], "--port is 0"),
        (["--max_new_tokens", "0"], "--max_new_tokens is 0"),
        (["--model", "./gone"], "'./gone' does not exist"),
        (["--reward_model", "./gone"], "'./gone' does not exist"),
    ],
)
def test_mistakes_are_told_in_one_line(options, says, policy_folder, reward_folder, capsys):
    assert main(["playground", "--model", policy_folder, "--reward_model", reward_folder, *options]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
