"""What comes from others does not act: no pickles, no code of a model unless asked for, nothing private written."""

import ast
import getpass
import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgtg_hf.cli.main import main
from rgtg_hf.decoding.hub import generate_by_name
from rgtg_hf.rewards.load import load_reward_model
from tests.faults.runs import ROOT
from tests.faults.test_files import one_line
from tests.versions import is_at_least

CODE = [path for folder in ("rgtg_hf", "benchmarks", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]
UNPICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def distrusted(source):
    """What a file does that it must not, as pairs of line and words."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                if name.split(".")[0] in UNPICKLES:
                    yield node.lineno, f"imports {name}"
        if not isinstance(node, ast.Call):
            continue
        called, keywords = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in ("torch.load", "yaml.load", "eval", "exec") and keywords.get("weights_only") != "True":
            yield node.lineno, f"calls {called}"
        if called in ("np.load", "numpy.load", "pandas.read_pickle", "pd.read_pickle"):
            yield node.lineno, f"calls {called}"
        if keywords.get("trust_remote_code") == "True" or "'trust_remote_code': True" in ast.unparse(node):
            yield node.lineno, "trusts for the user"


def test_nothing_is_unpickled_and_nobody_trusts_for_the_user():
    found = {path.relative_to(ROOT).as_posix(): list(distrusted(path.read_text("utf-8"))) for path in CODE}
    assert len(found) > 80
    assert not {name: words for name, words in found.items() if words}


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "import pickle",
        "from dill import load",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "f(**{'trust_remote_code': True})",
        "eval(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert list(distrusted(source))
    assert not list(distrusted("torch.load(file, weights_only=True); model.eval()"))


@pytest.fixture
def hostile(reward_folder, tmp_path):
    """A reward model with code of its own, and the file that this code makes when it runs."""
    trap, folder = tmp_path / "it_ran", tmp_path / "hostile"
    shutil.copytree(reward_folder, folder)
    code = f"from pathlib import Path\nPath({str(trap)!r}).touch()\n"
    code += "from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast\n"
    code += "class EvilConfig(LlamaConfig): model_type = 'evil'\n"
    code += "class Evil(LlamaForSequenceClassification): config_class = EvilConfig\n"
    code += "class EvilTokenizer(PreTrainedTokenizerFast): pass\n"
    (folder / "evil.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code + "def generate(model, **arguments): return None\n")
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.EvilTokenizer"]})
    maps = {"AutoConfig": "evil.EvilConfig", "AutoModelForSequenceClassification": "evil.Evil"}
    edit(folder / "config.json", auto_map=maps | {"AutoModelForCausalLM": "evil.Evil"})
    yield folder, trap
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_models_own_code_does_not_run_unless_asked_for(hostile, policy_folder, tmp_path, monkeypatch, capsys):
    folder, trap = hostile
    policy = AutoModelForCausalLM.from_pretrained(policy_folder)
    tokenizer = AutoTokenizer.from_pretrained(policy_folder)
    monkeypatch.setattr("builtins.input", lambda *words: "y")  # whoever asks on the terminal would be told yes

    assert type(load_reward_model(str(folder))).__name__ == "LlamaForSequenceClassification"
    (folder / "guidance_config.json").write_text("{}")
    generate_by_name(
        policy, str(folder), inputs=tokenizer("Hi", return_tensors="pt")["input_ids"], tokenizer=tokenizer,
        max_new_tokens=2, pad_token_id=0,
    )  # fmt: skip
    models = ["--model", policy_folder, "--reward_model", str(folder), "--max_new_tokens", "2"]
    assert main(["generate", *models, "Hi"]) == 0
    assert main(["inspect", *models, "--output", str(tmp_path / "page.html"), "Hi"]) == 0
    assert main(["push", str(folder), "me/rm", "--local_only"]) == 0
    assert "rgtg_hf" in (folder / "custom_generate" / "generate.py").read_text()  # ours by now, and never run either
    ids = tokenizer("Hi", return_tensors="pt")["input_ids"]
    if is_at_least("5.12"):  # transformers ran code in a local folder unasked before
        with pytest.raises(ValueError, match="trust_remote_code"):
            policy.generate(ids, custom_generate=str(folder), trust_remote_code=False)

    edit(folder / "config.json", model_type="evil")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_reward_model(str(folder))
    assert "trust_remote_code" in one_line(capsys, ["generate", *models, "Hi"])
    pairs = tmp_path / "a.jsonl"
    pairs.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    train = [
        "train",
        "--model_name_or_path",
        folder,
        "--dataset_name",
        pairs,
        "--bf16",
        "False",
        "--report_to",
        "none",
    ]
    assert "trust_remote_code" in one_line(capsys, [*train, "--output_dir", tmp_path / "out"])
    assert not trap.exists()

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with suppress(ValueError):  # it is no working model, but that is found out by running it
        load_reward_model(str(folder), trust_remote_code=True)
    assert trap.exists()


def test_nothing_that_is_written_or_printed_tells_of_the_machine_or_its_user(
    policy_folder, reward_folder, tmp_path, monkeypatch, capsys
):
    token = "hf_" + "aBcDeFgHiJ" * 4
    home = tmp_path / "home" / "someone"
    shutil.copytree(policy_folder, home / "models" / "policy")
    shutil.copytree(reward_folder, home / "models" / "reward")
    for name, value in {"HF_TOKEN": token, "HOME": str(home), "USER": "someone-private"}.items():
        monkeypatch.setenv(name, value)
    policy, reward = str(home / "models" / "policy"), str(home / "models" / "reward")
    prompts, pairs = home / "prompts.jsonl", home / "pairs.jsonl"
    prompts.write_text('{"prompt": "Hi"}\n' * 2)
    pairs.write_text(
        "".join(json.dumps({"prompt": f"{i}", "chosen": f"b{i}", "rejected": f"c{i}"}) + "\n" for i in range(4))
    )
    out = home / "out"
    out.mkdir()

    models = ["--model", policy, "--reward_model", reward, "--max_new_tokens", "2"]
    from rgtg_hf.cli.partial import PartialOutput

    with monkeypatch.context() as patch:
        patch.setattr(
            PartialOutput, "finish", PartialOutput.close
        )  # as if killed: the unfinished file is looked at too
        assert main(["generate", *models, "--prompts", str(prompts), "--output", str(out / "other.jsonl")]) == 0
    assert main(["generate", *models, "--prompts", str(prompts), "--output", str(out / "out.jsonl")]) == 0
    assert main(["inspect", *models, "--output", str(out / "page.html"), "Hi"]) == 0
    train = ["train", "--model_name_or_path", policy, "--dataset_name", str(pairs), "--num_layers", "1"]
    train += ["--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1", "--report_to", "none"]
    train += ["--eval_strategy", "steps", "--eval_steps", "1", "--dataset_test_split", "train"]
    train += ["--dataloader_pin_memory", "False", "--bf16", "False", "--output_dir", str(out / "run")]
    assert main(train) == 0
    assert main(["push", str(out / "run"), "someone-public/rm", "--local_only"]) == 0

    captured = capsys.readouterr()
    assert token not in captured.out + captured.err
    assert "someone-private" not in captured.out + captured.err
    written = [path for path in out.rglob("*") if path.is_file()]
    assert {"README.md", "trainer_state.json", "page.html", "other.jsonl.partial"} <= {path.name for path in written}
    for path in written:
        content = path.read_bytes()
        for secret in (token, str(home), str(tmp_path), "someone-private", str(Path.home()), f"/{getpass.getuser()}/"):
            assert secret.encode() not in content, f"{path.relative_to(out)} holds {secret}"
