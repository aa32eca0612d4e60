import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from rgtg_hf.cli.main import main
from rgtg_hf.cli.output_dir import read_marker
from rgtg_hf.rewards.load import load_reward_model

QUICK = ["--max_steps", "1", "--per_device_train_batch_size", "2"]
QUICK += ["--report_to", "none", "--bf16", "False", "--dataloader_pin_memory", "False"]


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_trained_model_is_a_plain_checkpoint_with_the_layers_asked_for(policy_folder, pairs, tmp_path):
    folder = tmp_path / "out"
    arguments = ["--model_name_or_path", policy_folder, "--dataset_name", pairs, "--output_dir", str(folder)]
    assert main(["train", *arguments, "--num_layers", "2", *QUICK]) == 0
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert (model.config.num_hidden_layers, model.config.num_labels) == (2, 1)
    assert read_marker(folder)["finished"]


def test_the_finished_model_is_uploaded_and_nothing_else(policy_folder, pairs, tmp_path, trainer_hub):
    folder = tmp_path / "out"
    arguments = ["--model_name_or_path", policy_folder, "--dataset_name", pairs, "--output_dir", str(folder)]
    assert main(["train", *arguments, *QUICK, "--push_to_hub", "True", "--hub_model_id", "someone/rm"]) == 0
    uploaded = trainer_hub / "someone/rm"
    names = {path.relative_to(uploaded).as_posix() for path in uploaded.rglob("*") if path.is_file()}
    assert names == {path.name for path in folder.iterdir() if path.is_file()}
    assert not {name for name in names if name.endswith((".bin", ".pt"))}


def test_options_come_from_a_file_and_the_command_line_wins(policy_folder, pairs, tmp_path):
    config = tmp_path / "config.yaml"
    settings = {"model_name_or_path": policy_folder, "dataset_name": pairs, "num_layers": 3}
    settings |= {"output_dir": str(tmp_path / "out"), "report_to": "none", "bf16": False}
    config.write_text(json.dumps(settings | {"dataloader_pin_memory": False}))  # JSON is YAML
    assert main(["train", "--config", str(config), "--num_layers", "1", "--max_steps", "1"]) == 0
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.num_hidden_layers == 1


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # called by PEFT
def test_lora_trains_the_head_by_default_and_its_adapter_steers(policy_folder, pairs, tmp_path, capsys):
    folder = tmp_path / "out"
    arguments = ["--model_name_or_path", policy_folder, "--dataset_name", pairs, "--output_dir", str(folder)]
    lora = ["--use_peft", "--lora_target_modules", "q_proj", "v_proj", "--num_layers", "2", "--learning_rate", "0.1"]
    assert main(["train", *arguments, *lora, *QUICK]) == 0
    adapter = json.loads((folder / "adapter_config.json").read_text())
    assert adapter["task_type"] == "SEQ_CLS"
    assert "score" in adapter["modules_to_save"]

    capsys.readouterr()
    steer = ["generate", "--model", policy_folder, "--reward_model", str(folder), "--greedy", "--max_new_tokens", "8"]
    texts = []
    for beta in ("0", "1000"):
        assert main([*steer, "--beta", beta, "Hello"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] != texts[1]
    # The head that steers is the trained one, not a fresh one.
    saved = load_file(folder / "adapter_model.safetensors")
    loaded = load_reward_model(str(folder), dtype="float32", trust_remote_code=False)
    head = next(
        value for name, value in loaded.named_parameters() if name.endswith("score.modules_to_save.default.weight")
    )
    torch.testing.assert_close(head.data, next(value for name, value in saved.items() if "score" in name))
    assert loaded.config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"--dataset_name": "gone.jsonl"}, "gone.jsonl does not exist"),
        ({"--dataset_name": "EMPTY"}, "has no rows"),
        ({"--dataset_name": "WRONG"}, "no column chosen and no column rejected (it has: text)"),
        ({"--output_dir": "FOREIGN"}, "was not made by rgtg-hf"),
        ({"--model_name_or_path": "/gone"}, "'/gone' does not exist"),
        ({"--num_layers": "99"}, "3 layers"),
        ({"--num_layers": "0"}, "num_layers"),
        ({"--no_such_flag": "1"}, "--no_such_flag"),
        ({"--learning_rate": "fast"}, "--learning_rate"),
        ({"--dataset_name": None}, "--dataset_name is missing"),
        ({"--model_name_or_path": None}, "--model_name_or_path is missing"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(capsys, policy_folder, pairs, tmp_path, change, says):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("precious")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "wrong.jsonl").write_text('{"text": "a"}\n')
    files = {"EMPTY": tmp_path / "empty.jsonl", "WRONG": tmp_path / "wrong.jsonl", "FOREIGN": foreign}
    options = {
        "--model_name_or_path": policy_folder,
        "--dataset_name": pairs,
        "--output_dir": str(tmp_path / "out"),
        "--report_to": "none",
        "--bf16": "False",
    } | {name: str(files.get(value, value)) for name, value in change.items() if value}
    for name, value in change.items():
        if value is None:
            del options[name]
    assert main(["train", *(word for option in options.items() for word in option)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("rgtg-hf: error: ")
    assert says in error
    assert not (tmp_path / "out").exists()
    assert [file.name for file in foreign.iterdir()] == ["thesis.tex"]
