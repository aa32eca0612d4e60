"""Disks that are full or may not be written: what was finished stays, and the same command goes on."""

import json
import subprocess

import pytest

from rgtg_hf.cli.main import main
from rgtg_hf.files import write_whole
from tests.faults.test_files import one_line

PROMPTS = 16


@pytest.fixture
def disk(tmp_path):
    """A disk of a few kilobytes, and a function that changes its options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        done = subprocess.run(["mount", *options, "tmpfs", str(folder)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("a disk of one's own needs the right to mount one")

    mount("-t", "tmpfs", "-o", "size=8k,nr_inodes=16")
    yield folder, lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def generate(policy_folder, reward_folder, tmp_path):
    file = tmp_path / "prompts.jsonl"
    prompts = [f"{i}? " + "A prompt of some length. " * 20 for i in range(PROMPTS)]
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    models = ["--model", policy_folder, "--reward_model", reward_folder]

    def arguments(output):
        return ["generate", *models, "--prompts", str(file), "--output", str(output), "--max_new_tokens", "4"]

    return arguments


def test_a_full_disk_keeps_the_finished_rows_and_the_run_goes_on_when_there_is_room(generate, disk, tmp_path, capsys):
    folder, remount = disk
    assert main(generate(tmp_path / "whole.jsonl")) == 0
    error = one_line(capsys, generate(folder / "out.jsonl"))
    assert "No space left on device" in error
    assert "the same command continues" in error
    lines = (folder / "out.jsonl.partial").read_bytes().split(b"\n")[:-1]
    assert 2 < len(lines) < PROMPTS + 1
    assert all(json.loads(line) for line in lines)
    remount("size=1m")
    assert main(generate(folder / "out.jsonl")) == 0
    assert (folder / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [path.name for path in folder.iterdir()] == ["out.jsonl"]


def test_a_disk_that_is_full_at_the_last_moment_loses_nothing(generate, disk, capsys):
    folder, remount = disk
    remount("size=1m,nr_inodes=2")  # room for one file, so that there is none for the ordered one
    error = one_line(capsys, generate(folder / "out.jsonl"))
    assert "all rows are in" in error
    assert len((folder / "out.jsonl.partial").read_bytes().splitlines()) == PROMPTS + 1
    remount("nr_inodes=16")
    assert main(generate(folder / "out.jsonl")) == 0
    assert len((folder / "out.jsonl").read_bytes().splitlines()) == PROMPTS


def test_folders_that_may_not_be_written_are_told_in_one_line(generate, disk, policy_folder, tmp_path, capsys):
    folder, remount = disk
    remount("ro")
    assert "Read-only file system" in one_line(capsys, generate(folder / "out.jsonl"))
    inspect = ["inspect", *generate(folder)[1:5], "--max_new_tokens", "2", "--output", folder / "page.html", "Hi"]
    assert "Read-only file system" in one_line(capsys, inspect)
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    train = ["train", "--model_name_or_path", policy_folder, "--dataset_name", tmp_path / "a.jsonl", "--bf16", "False"]
    train += ["--report_to", "none", "--dataloader_pin_memory", "False", "--output_dir", folder / "out"]
    assert "Read-only file system" in one_line(capsys, train)


def test_training_on_a_full_disk_keeps_its_checkpoints_and_goes_on_when_there_is_room(
    disk, policy_folder, tmp_path, capsys
):
    folder, remount = disk
    remount("size=700k,nr_inodes=1000")
    pairs = [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(8)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    train = ["train", "--model_name_or_path", policy_folder, "--dataset_name", tmp_path / "a.jsonl", "--bf16", "False"]
    train += ["--report_to", "none", "--dataloader_pin_memory", "False", "--max_steps", "6", "--save_steps", "1"]
    train += ["--save_strategy", "steps", "--disable_tqdm", "True", "--num_layers", "2"]
    assert main([*map(str, train), "--output_dir", str(tmp_path / "whole")]) == 0
    train += ["--output_dir", folder / "out"]
    error = one_line(capsys, train)
    assert "No space left on device" in error or "is the disk full?" in error  # whichever file was the last straw
    assert (folder / "out" / "checkpoint-1" / "trainer_state.json").is_file()
    remount("size=20m")
    assert main([*map(str, train), "--resume_from_checkpoint", "last"]) == 0
    whole, resumed = ((path / "model.safetensors").read_bytes() for path in (tmp_path / "whole", folder / "out"))
    assert whole == resumed


def test_a_file_is_there_whole_or_as_it_was(disk):
    folder, _ = disk
    write_whole(folder / "a.txt", "before")
    with pytest.raises(OSError, match="No space left"):
        write_whole(folder / "a.txt", "x" * 100_000)
    assert (folder / "a.txt").read_text() == "before"
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    (folder / "link.txt").symlink_to(folder / "a.txt")
    write_whole(folder / "link.txt", "after")
    assert (folder / "a.txt").read_text() == "after"
    with pytest.raises(OSError, match="No space left"):
        write_whole("/dev/full", "text")
