"""Files that are damaged, missing, of another kind or badly encoded: one line says what and where."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from rgtg_hf import RewardGuidanceConfig
from rgtg_hf.cli.main import main
from rgtg_hf.rewards.load import load_reward_model
from tests.cli.conftest import byte_tokenizer, save
from tests.versions import is_at_least


def cut(content):
    return content[: len(content) // 2]


def empty(content):
    return b""


def flip(place):
    """One wrong bit. In a safetensors file place 60 is within the name of a weight."""
    return lambda content: content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


def holds(text):
    return lambda content: text.encode()


def with_weights(change):
    def damage(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return damage


def a_nan(weights):
    weights["model.layers.0.mlp.up_proj.weight"][3, 3] = float("nan")


def one_missing(weights):
    del weights["model.layers.0.mlp.up_proj.weight"]


def in_file(name, change):
    def damage(folder):
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def without(*names):
    return lambda folder: [path.unlink() for name in names for path in folder.glob(name)]


def a_pickle_only(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


DAMAGES = {
    "weights cut short": in_file("model.safetensors", cut),
    "weights empty": in_file("model.safetensors", empty),
    "a bit of the header's length": in_file("model.safetensors", flip(0)),
    "a bit of the header's form": in_file("model.safetensors", flip(9)),
    "a bit of a weight's name": in_file("model.safetensors", flip(60)),
    "a weight that is no number": with_weights(a_nan),
    "a weight missing": with_weights(one_missing),
    "no weights": without("model.safetensors"),
    "a pickle only": a_pickle_only,
    "configuration cut short": in_file("config.json", cut),
    "configuration empty": in_file("config.json", empty),
    "a bit of the configuration": in_file("config.json", flip(0)),
    "configuration a list": in_file("config.json", holds("[1, 2]")),
    "configuration null": in_file("config.json", holds("null")),
    "configuration of nothing": in_file("config.json", holds("{}")),
    "unknown model type": in_file("config.json", holds('{"model_type": "nonsense"}')),
    "sizes that are text": in_file("config.json", holds('{"model_type": "llama", "hidden_size": "x"}')),
    "sizes below zero": in_file("config.json", holds('{"model_type": "llama", "hidden_size": -3}')),
    "another shape": in_file("config.json", lambda c: c.replace(b'"hidden_size": 32', b'"hidden_size": 64')),
    "tokenizer cut short": in_file("tokenizer.json", cut),
    "a bit of the tokenizer": in_file("tokenizer.json", flip(9)),
    "tokenizer settings cut short": in_file("tokenizer_config.json", cut),
    "no tokenizer": without("tokenizer*"),
}


def one_line(capsys, arguments):
    """Runs a command that must fail in words; returns them."""
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    error = capsys.readouterr().err
    told = [line for line in error.splitlines() if line.startswith("rgtg-hf: error: ")]
    assert len(told) == 1, error
    assert "Traceback" not in error
    return told[0]


@pytest.fixture
def generate(policy_folder, reward_folder):
    def arguments(model=policy_folder, reward_model=reward_folder):
        return ["generate", "--model", model, "--reward_model", reward_model, "--max_new_tokens", "4", "Hi"]

    return arguments


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", ["model", "reward_model"])
def test_a_damaged_checkpoint_is_refused_by_name(
    which, damage, generate, policy_folder, reward_folder, tmp_path, capsys
):
    folder = tmp_path / "damaged"
    shutil.copytree(policy_folder if which == "model" else reward_folder, folder)
    DAMAGES[damage](folder)
    error = one_line(capsys, generate(**{which: folder}))
    if damage != "no tokenizer" or is_at_least("5.10"):  # transformers made an empty one up
        assert f"--{which}: {folder} cannot be loaded" in error


@pytest.mark.parametrize("damage", ["weights cut short", "a weight missing", "a pickle only", "configuration a list"])
def test_training_refuses_a_damaged_checkpoint_to_start_from(damage, policy_folder, tmp_path, capsys):
    folder = tmp_path / "damaged"
    shutil.copytree(policy_folder, folder)
    DAMAGES[damage](folder)
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    arguments = ["train", "--model_name_or_path", folder, "--dataset_name", tmp_path / "a.jsonl", "--bf16", "False"]
    one_line(capsys, [*arguments, "--output_dir", tmp_path / "out", "--report_to", "none"])
    assert not (tmp_path / "out").exists()


def test_checkpoints_of_another_class_are_refused(generate, policy_folder, reward_folder, tmp_path, capsys):
    assert "lacks 1 weights" in one_line(capsys, generate(model=reward_folder))
    assert "is a language model (LlamaForCausalLM)" in one_line(capsys, generate(reward_model=policy_folder))
    tied = {"num_labels": 1, "tie_word_embeddings": True}  # so that a language model lacks nothing
    save(tmp_path / "tied", LlamaForSequenceClassification, byte_tokenizer(), 1, **tied)
    assert "is a reward model" in one_line(capsys, generate(model=tmp_path / "tied"))


def test_the_library_refuses_what_the_command_does(policy_folder, reward_folder, tmp_path):
    with pytest.raises(ValueError, match=r"is a language model \(LlamaForCausalLM\), which gives no reward"):
        load_reward_model(policy_folder)
    shutil.copytree(reward_folder, tmp_path / "pickle")
    a_pickle_only(tmp_path / "pickle")
    with pytest.raises(OSError, match="safetensors"):
        load_reward_model(str(tmp_path / "pickle"))
    shutil.copytree(reward_folder, tmp_path / "cut")
    DAMAGES["weights cut short"](tmp_path / "cut")
    with pytest.raises(ValueError, match="its files are damaged"):
        load_reward_model(str(tmp_path / "cut"))


# PEFT asks transformers a question by a name that transformers is about to retire.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_damaged_adapter_is_refused(tmp_path):
    from peft import LoraConfig, get_peft_model

    base = save(tmp_path / "base", LlamaForCausalLM, byte_tokenizer(), 1)
    model = LlamaForSequenceClassification.from_pretrained(base, num_labels=1)
    adapter = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]))
    adapter.save_pretrained(tmp_path / "adapter")
    assert load_reward_model(str(tmp_path / "adapter")).config.num_labels == 1
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    torch.save(weights, tmp_path / "adapter" / "adapter_model.bin")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(OSError, match=r"adapter_model\.safetensors"):
        load_reward_model(str(tmp_path / "adapter"))
    for content in (b"", b"\x10" * 40):
        (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="its files are damaged"):
            load_reward_model(str(tmp_path / "adapter"))
    headless = {name: weight for name, weight in weights.items() if "score" not in name}
    save_file(headless, tmp_path / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="lacks the weights of its score head"):
        load_reward_model(str(tmp_path / "adapter"))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b'{"beta": "x"}', b'{"gamma": 1}', b"\xff\xfe{", b'{"beta": NaN}']
)
def test_a_damaged_guidance_config_is_refused(content, reward_folder, tmp_path, capsys):
    folder = tmp_path / "reward"
    shutil.copytree(reward_folder, folder)
    (folder / "guidance_config.json").write_bytes(content)
    with pytest.raises((ValueError, TypeError)):
        RewardGuidanceConfig.from_pretrained(folder)
    assert "guidance_config.json cannot be used" in one_line(capsys, ["push", folder, "me/rm", "--local_only"])


# Lines of prompts and of pairs; what the error says, or None where all is well.
GOOD = {"prompt": "a", "chosen": "b", "rejected": "c"}
LINES = {
    "fine": (json.dumps(GOOD), None),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), None),
    "windows line ends": (json.dumps(GOOD) + "\r\n" + json.dumps(GOOD) + "\r", None),
    "line separators in text": (json.dumps(GOOD | {"prompt": "a\u2028b\x85c\x1cd"}, ensure_ascii=False), None),
    "blank lines": ("\n  \n" + json.dumps(GOOD) + "\n\n", None),
    "half a line": (json.dumps(GOOD)[:20], "line 7 of .* is not JSON"),
    "no row": ("[1, 2]", "line 7 of .* is not an object"),
    "zeros": ("\0" * 64, "line 7 of .* is not JSON"),
    "deep nesting": ("[" * 100_000, "line 7 of .* is not JSON"),
    "half a character": (
        '{"prompt": "\\ud800", "chosen": "b", "rejected": "c"}',
        "line 7 of .* contains half a character",
    ),
    "Latin-1": (json.dumps(GOOD | {"prompt": "é"}, ensure_ascii=False).encode("latin-1"), "line 7 of .* is not UTF-8"),
}


def lines_file(tmp_path, name):
    line, says = LINES[name]
    content = line if isinstance(line, bytes) else line.encode()
    before = b"" if name == "a byte order mark" else (json.dumps(GOOD) + "\n").encode() * 6
    path = tmp_path / "rows.jsonl"
    path.write_bytes(before + content + b"\n" + json.dumps(GOOD).encode() + b"\n")
    return path, says


@pytest.mark.parametrize("name", LINES)
def test_a_broken_line_of_prompts_is_named(name, tmp_path):
    from rgtg_hf.cli.errors import UserError
    from rgtg_hf.cli.prompt_files import read_prompt_rows

    path, says = lines_file(tmp_path, name)
    if says is None:
        assert read_prompt_rows(str(path))[-1] == GOOD
    else:
        with pytest.raises(UserError, match=says):
            read_prompt_rows(str(path))


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_broken_line_of_pairs_is_named(name, streaming, tmp_path):
    from rgtg_hf.cli.errors import UserError
    from rgtg_hf.cli.preferences import load_preferences

    path, says = lines_file(tmp_path, name)
    if says is None:
        assert list(load_preferences(str(path), None, "train", streaming=streaming))[-1] == GOOD
    else:
        with pytest.raises(UserError, match=says):
            load_preferences(str(path), None, "train", streaming=streaming)


def test_other_encodings_are_told_apart_from_broken_lines(tmp_path, capsys):
    from rgtg_hf.cli.errors import UserError
    from rgtg_hf.cli.preferences import load_preferences
    from rgtg_hf.cli.prompt_files import read_prompts

    (tmp_path / "a.jsonl").write_bytes(json.dumps(GOOD).encode("utf-16"))
    (tmp_path / "a.csv").write_bytes("prompt,chosen,rejected\na,b,c\né,e,f\n".encode("latin-1"))
    (tmp_path / "a.txt").write_bytes("one\r\n\u2028two\r\n".encode("utf-8-sig"))
    with pytest.raises(UserError, match=r"line 1 of .* is not UTF-8"):
        load_preferences(str(tmp_path / "a.jsonl"), None, "train")
    with pytest.raises(UserError, match=r"line 3 of .* is not UTF-8"):
        load_preferences(str(tmp_path / "a.csv"), None, "train")
    assert read_prompts([], str(tmp_path / "a.txt")) == ["one", "two"]


def test_a_line_of_fifty_megabytes_is_read_or_refused_in_words(generate, tmp_path, capsys):
    """As a note it is carried along; as a prompt it is longer than the policy reads, which is told at once."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": "b", "note": "x" * 50_000_000}) + "\n")
    arguments = [*generate()[:-1], "--prompts", path, "--output", tmp_path / "out.jsonl"]
    assert main([*map(str, arguments)]) == 0
    assert [json.loads(line)["prompt"] for line in Path(tmp_path / "out.jsonl").read_text().splitlines()] == ["a", "b"]
    path.write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"prompt": "x" * 50_000_000}) + "\n")
    arguments[-1] = tmp_path / "other.jsonl"
    error = one_line(capsys, arguments)
    assert "prompt 2 has at least" in error
    assert len(error) < 500


def test_a_prompt_without_room_for_its_response_is_refused(generate, capsys):
    assert "prompt 1 has" in one_line(capsys, [*generate()[:-1], "word " * 500])
