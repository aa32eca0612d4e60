import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rgtg_hf.cli.generate.response_file import BatchRow, plan_batches
from rgtg_hf.cli.main import main

PROMPTS = [
    {"prompt": "Short?"},
    {"prompt": "A much longer prompt than the others, to be sure."},
    {"prompt": [{"role": "user", "content": "Messages"}], "beta": 0},
    {"prompt": "Middle length?", "max_new_tokens": 3},
    {"prompt": "Tiny"},
]


@pytest.fixture
def arguments(policy_folder, reward_folder, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))

    def of(output):
        models = ["--model", policy_folder, "--reward_model", reward_folder]
        files = ["--prompts", str(file), "--output", str(output)]
        return ["generate", *models, *files, "--max_new_tokens", "8", "--batch_size", "2"]

    return of


@pytest.fixture
def generate(arguments):
    return lambda output, *extra: main([*arguments(output), *extra])


def test_rows_come_in_the_order_of_the_prompts_with_their_own_settings(generate, tmp_path):
    assert generate(tmp_path / "out.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in PROMPTS]
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["beta"] for row in rows] == [1, 1, 0, 1, 1]
    assert rows[3]["tokens"] <= 3
    assert not (tmp_path / "out.jsonl.partial").exists()


@pytest.mark.parametrize("kept_bytes", [0.0, 0.1, 0.4, 0.6, 0.9, 1.0])
def test_interrupted_run_goes_on_to_what_an_undisturbed_one_writes(generate, tmp_path, kept_bytes, monkeypatch):
    from rgtg_hf.cli.partial import PartialOutput

    assert generate(tmp_path / "whole.jsonl") == 0
    with monkeypatch.context() as patch:
        patch.setattr(PartialOutput, "finish", PartialOutput.close)  # as if killed at the last moment
        assert generate(tmp_path / "out.jsonl") == 0
    partial = tmp_path / "out.jsonl.partial"
    content = partial.read_bytes()
    partial.write_bytes(content[: int(len(content) * kept_bytes)])
    assert generate(tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_run_that_is_interrupted_twice_leaves_whole_lines(generate, tmp_path, monkeypatch):
    from rgtg_hf.cli.partial import PartialOutput

    monkeypatch.setattr(PartialOutput, "finish", PartialOutput.close)
    partial = tmp_path / "out.jsonl.partial"
    assert generate(tmp_path / "out.jsonl") == 0
    content = partial.read_bytes()
    partial.write_bytes(content[:-20])
    assert generate(tmp_path / "out.jsonl") == 0
    assert partial.read_bytes() == content


def test_a_run_that_was_killed_before_it_could_clean_up_is_ended(generate, tmp_path, monkeypatch, capsys):
    from rgtg_hf.cli.partial import PartialOutput

    assert generate(tmp_path / "out.jsonl") == 0
    whole = (tmp_path / "out.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(PartialOutput, "finish", PartialOutput.close)
        assert generate(tmp_path / "again.jsonl") == 0
    (tmp_path / "again.jsonl.partial").rename(tmp_path / "out.jsonl.partial")
    assert generate(tmp_path / "out.jsonl") == 0
    assert [path.name for path in tmp_path.glob("out.jsonl*")] == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_bytes() == whole


def launch(processes, *arguments):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [*command, "-m", "rgtg_hf.cli.main", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run


@pytest.mark.slow
def test_processes_share_the_work_and_write_what_one_writes(generate, arguments, tmp_path):
    assert generate(tmp_path / "whole.jsonl") == 0
    (tmp_path / "out.jsonl.partial-1").touch()  # only a second process takes care of this one
    run = launch(2, *arguments(tmp_path / "out.jsonl"))
    assert "3/3" in run.stderr  # the bar is the first process's, which has two of the four batches
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not list(tmp_path.glob("out.jsonl.*"))


def test_a_run_of_several_processes_goes_on_with_any_number(generate, tmp_path, monkeypatch):
    from rgtg_hf.cli.generate import generate_command as command
    from rgtg_hf.cli.processes import Processes

    assert generate(tmp_path / "whole.jsonl") == 0
    lines = {}
    for index in range(3):  # as if the first process had been killed before it put things together
        with monkeypatch.context() as patch:
            patch.setattr(command, "join_processes", lambda device, index=index: Processes(index, 3))
            patch.setattr("rgtg_hf.cli.partial.PartialOutput.finish", lambda self: None)
            assert generate(tmp_path / "out.jsonl") == 0
        name = "out.jsonl.partial" + (f"-{index}" if index else "")
        lines[index] = (tmp_path / name).read_bytes().splitlines()
    assert sum(map(len, lines.values())) == 3 + len(PROMPTS)
    assert all(len(part) > 1 for part in lines.values())  # each did its share
    broken = tmp_path / "out.jsonl.partial-2"
    broken.write_bytes(broken.read_bytes()[:-9])
    assert generate(tmp_path / "out.jsonl") == 0
    assert (tmp_path / "out.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert not list(tmp_path.glob("out.jsonl.*"))


def test_conversations_go_through_the_chat_template(generate, tmp_path, policy_folder, monkeypatch):
    from transformers import AutoTokenizer, LlamaForCausalLM

    read = []
    original = LlamaForCausalLM.generate
    monkeypatch.setattr(
        LlamaForCausalLM,
        "generate",
        lambda self, *a, **k: read.append((k["input_ids"], k["attention_mask"])) or original(self, *a, **k),
    )
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": talk}) + "\n" + json.dumps({"prompt": "Hi"}) + "\n")
    assert generate(tmp_path / "out.jsonl") == 0
    tokenizer = AutoTokenizer.from_pretrained(policy_folder)
    ids, mask = read[0]
    texts = [tokenizer.decode(row[keep.bool()]) for row, keep in zip(ids, mask, strict=True)]
    assert texts == [
        "<start>system:Be brief.<end><start>user:Hi<end><start>assistant:",
        "<start>user:Hi<end><start>assistant:",
    ]


def test_going_on_with_other_settings_is_refused(generate, tmp_path, capsys, monkeypatch):
    from rgtg_hf.cli.partial import PartialOutput

    with monkeypatch.context() as patch:
        patch.setattr(PartialOutput, "finish", PartialOutput.close)
        assert generate(tmp_path / "out.jsonl") == 0
    before = (tmp_path / "out.jsonl.partial").read_bytes()
    assert generate(tmp_path / "out.jsonl", "--seed", "5") == 2
    assert "started with other prompts or settings" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl.partial").read_bytes() == before


def test_foreign_files_are_left_alone(generate, tmp_path, capsys):
    refused = "started with other prompts"
    for name, content, says in (
        ("a.jsonl", "precious\n", "a.jsonl exists"),
        ("b.jsonl.partial", "precious\n", refused),
        ("c.jsonl.partial", "precious", refused),
    ):
        (tmp_path / name).write_text(content)
        assert generate(tmp_path / name.removesuffix(".partial")) == 2
        assert says in capsys.readouterr().err
        assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("setting", [{"beta": "strong"}, {"beta": True}, {"beta": 1e999}, {"max_new_tokens": 0}])
def test_unusable_settings_of_a_row_are_refused(generate, tmp_path, capsys, setting):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a"} | setting) + "\n")
    assert generate(tmp_path / "out.jsonl") == 2
    assert f"prompt 1: `{next(iter(setting))}` is" in capsys.readouterr().err


def test_batches_hold_rows_of_one_kind_and_like_length():
    rows = [BatchRow(i, "x" * n, beta, 8) for i, (n, beta) in enumerate([(5, 1), (50, 1), (6, 1), (51, 1), (7, 2)])]
    batches = plan_batches(rows, lambda row: len(row.prompt), batch_size=2)
    assert [[row.index for row in batch] for batch in batches] == [[3, 1], [2, 0], [4]]
