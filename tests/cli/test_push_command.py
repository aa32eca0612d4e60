import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from rgtg_hf import (
    NextTokenRewardModel,
    RewardGuidanceConfig,
    RewardGuidedLogitsProcessor,
    inspect,
    reward_guided_generate,
)
from rgtg_hf.cli.main import main
from rgtg_hf.serving.served_reward_model import server_default
from rgtg_hf.serving.settings import ServerSettings
from tests.cli.conftest import byte_tokenizer, save
from tests.tiny_models import GuidedLlama

CARD = """---
base_model: BASE
tags:
- prefix-reward-model
---

# My model

```python
reward_model = AutoModelForSequenceClassification.from_pretrained("reward", num_labels=1)
```

## Evaluation

Figures.
"""


@pytest.fixture
def folder(tmp_path, reward_folder):
    """A training run's output folder, with what should stay at home."""
    shutil.copytree(reward_folder, tmp_path / "reward")
    (tmp_path / "reward" / "README.md").write_text(CARD)
    (tmp_path / "reward" / "checkpoint-1").mkdir()
    for name in ("checkpoint-1/model.safetensors", "optimizer.pt", "training_args.bin", "rgtg_hf.json", "notes.txt"):
        (tmp_path / "reward" / name).write_text("{}")
    return tmp_path / "reward"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Stands in for the hub: what is uploaded lands in a folder."""
    calls = []

    class Hub:
        def create_repo(self, repo, private, exist_ok):
            calls.append((repo, private))

        def upload_folder(self, folder_path, repo_id, allow_patterns, commit_message):
            names = [p.relative_to(folder_path).as_posix() for p in Path(folder_path).rglob("*") if p.is_file()]
            for name in filter_repo_objects(names, allow_patterns=allow_patterns):
                target = tmp_path / "uploaded" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder_path / name, target)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    Hub.calls = calls
    return Hub


def test_what_is_uploaded_is_all_that_steering_needs_and_no_more(folder, hub, tmp_path, capsys):
    assert main(["push", str(folder), "owner/my-rm", "--beta", "2", "--private"]) == 0
    assert hub.calls == [("owner/my-rm", True)]
    uploaded = tmp_path / "uploaded"
    names = {path.relative_to(uploaded).as_posix() for path in uploaded.rglob("*") if path.is_file()}
    assert names == {
        *("README.md", "config.json", "model.safetensors", "guidance_config.json", "chat_template.jinja"),
        *("tokenizer.json", "tokenizer_config.json"),
        *("custom_generate/generate.py", "custom_generate/requirements.txt"),
    }
    assert RewardGuidanceConfig.from_pretrained(uploaded) == RewardGuidanceConfig(beta=2.0, top_k=10)
    assert AutoModelForSequenceClassification.from_pretrained(uploaded).config.num_labels == 1
    card = (uploaded / "README.md").read_text()
    assert 'from_pretrained("owner/my-rm", num_labels=1)' in card
    assert "- custom_generate" in card
    assert str(tmp_path) not in card
    assert 'custom_generate="owner/my-rm"' in capsys.readouterr().out


def test_the_code_that_the_card_gains_steers(folder, policy_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (folder / "README.md").write_text(CARD.replace("BASE", "owner/policy"))
    assert main(["push", "reward", "owner/my-rm", "--local_only"]) == 0
    # Folders of these names stand in for the hub.
    shutil.copytree(policy_folder, "owner/policy")
    shutil.copytree(folder, "owner/my-rm")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    section = (folder / "README.md").read_text().partition("## Steer by name")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    capsys.readouterr()
    exec(code.replace("max_new_tokens=64", "max_new_tokens=4"), {})
    assert capsys.readouterr().out.startswith("How are you today?")


def test_the_line_that_is_printed_without_an_upload_steers(folder, policy_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    assert main(["push", str(folder), "owner/my-rm", "--local_only"]) == 0
    line = re.search(r"policy\.generate\(.*\)", capsys.readouterr().out)[0]
    inputs = AutoTokenizer.from_pretrained(policy_folder)(["How are you?"], return_tensors="pt")
    names = {"policy": LlamaForCausalLM.from_pretrained(policy_folder), "inputs": inputs}
    output = eval(line.replace("**inputs", "**inputs, max_new_tokens=2"), names)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 2


def save_adapter(folder, policy):
    base = AutoModelForSequenceClassification.from_pretrained("owner/policy", num_labels=1)
    get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"])).save_pretrained(folder)
    Path(folder, "README.md").unlink()  # PEFT's own card


KINDS = {
    "classifier": lambda folder, policy: save(
        folder, LlamaForSequenceClassification, byte_tokenizer(), 2, num_labels=1
    ),
    "adapter": save_adapter,
    "next token": lambda folder, policy: NextTokenRewardModel.from_backbone(policy, rank=4).save_pretrained(folder),
    "steering head": lambda folder, policy: NextTokenRewardModel.from_policy(policy, rank=4).save_pretrained(folder),
}


# PEFT asks transformers a question by a name that transformers is about to retire.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_pushed_with_a_card_whose_code_steers_as_recommended(
    kind, policy_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(policy_folder, "owner/policy")
    KINDS[kind]("owner/my-rm", AutoModelForCausalLM.from_pretrained("owner/policy"))
    byte_tokenizer().save_pretrained("owner/my-rm")
    options = ["--beta", "2.5", "--top_k", "7", "--policy", "owner/policy", "--local_only"]
    Path("owner/policy").rename("elsewhere")  # the base is on the hub
    assert main(["push", "owner/my-rm", "owner/my-rm", *options]) == 0
    Path("elsewhere").rename("owner/policy")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    card = Path("owner/my-rm/README.md").read_text()
    capsys.readouterr()
    codes = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(codes) == 2
    for code in codes:
        assert "2.5" in code
        # The card does not name a policy that is a folder of this machine.
        code = code.replace("your/language-model", "owner/policy")
        exec(code.replace("max_new_tokens=64", "max_new_tokens=4"), {})
        assert capsys.readouterr().out.startswith("How are you today?")
    assert "top_k=7" in codes[0]


def test_a_model_without_a_card_gets_one(folder):
    (folder / "README.md").unlink()
    assert main(["push", str(folder), "owner/my-rm", "--policy", "owner/policy", "--local_only"]) == 0
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert "base_model: owner/policy" in card
    assert 'from_pretrained("owner/my-rm"' in card
    assert 'custom_generate="owner/my-rm"' in card


def test_pushing_twice_leaves_the_same_files(folder, hub):
    assert main(["push", str(folder), "owner/my-rm", "--local_only"]) == 0
    card = (folder / "README.md").read_text()
    assert main(["push", str(folder), "owner/my-rm", "--local_only"]) == 0
    assert (folder / "README.md").read_text() == card
    assert hub.calls == []


def test_settings_that_were_there_stay_unless_others_are_given(folder):
    RewardGuidanceConfig(beta=5.0, top_k=7, min_p=0.1).save_pretrained(folder)
    assert main(["push", str(folder), "owner/my-rm", "--top_k", "9", "--local_only"]) == 0
    assert RewardGuidanceConfig.from_pretrained(folder) == RewardGuidanceConfig(beta=5.0, top_k=9, min_p=0.1)


def test_a_token_or_a_place_is_not_uploaded(folder, hub, capsys):
    config = json.loads((folder / "config.json").read_text())
    for value, says in (("hf_" + "x" * 34, "holds an access token"), (str(folder), "names a place on this machine")):
        (folder / "config.json").write_text(json.dumps(config | {"note": value}))
        assert main(["push", str(folder), "owner/my-rm"]) == 2
        assert says in capsys.readouterr().err
    assert hub.calls == []


def test_refusals_are_one_line(folder, tmp_path, policy_folder, capsys):
    def refused(*arguments):
        capsys.readouterr()
        assert main(["push", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "give `owner/name`" in refused(folder, "my-rm")
    assert "--beta is nan" in refused(folder, "owner/rm", "--beta", "nan")
    assert "is not a folder" in refused(tmp_path / "nothing", "owner/rm")
    assert "is a `*ForSequenceClassification`" in refused(policy_folder, "owner/rm")
    two = save(tmp_path / "two", LlamaForSequenceClassification, byte_tokenizer(), 1, num_labels=2)
    assert "with 2 labels" in refused(two, "owner/rm")
    (folder / "tokenizer_config.json").unlink()
    assert "has no tokenizer" in refused(folder, "owner/rm")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "no weights as safetensors" in refused(folder, "owner/rm")


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(folder, capsys):
    assert main(["push", str(folder), "owner/my-rm"]) == 2  # the tests run offline
    offline = capsys.readouterr().err
    nowhere = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "x"}
    command = [sys.executable, "-m", "rgtg_hf.cli.main", "push", str(folder), "owner/my-rm"]
    done = subprocess.run(command, env=os.environ | nowhere, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    for error, says in ((offline, "HF_HUB_OFFLINE is set"), (done.stderr, "the hub cannot be reached")):
        assert says in error
        assert error.count("\n") == 1


def test_an_adapter_whose_base_others_do_not_have_is_refused(folder, hub, policy_folder, capsys):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": policy_folder}))
    assert main(["push", str(folder), "owner/my-rm"]) == 2
    assert f"is an adapter on {policy_folder}, a folder that others do not have" in capsys.readouterr().err
    assert hub.calls == []


def test_a_pushed_beta_is_obeyed_at_every_door(folder, policy_folder, tmp_path, capsys, monkeypatch):
    """Eight in the file is eight wherever the reward model is named, or was loaded from there."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    assert main(["push", str(folder), "owner/my-rm", "--beta", "8", "--local_only"]) == 0
    name, strong = str(folder), RewardGuidanceConfig(beta=8.0, top_k=10)
    reward_model = AutoModelForSequenceClassification.from_pretrained(name)
    policy, tokenizer = GuidedLlama.from_pretrained(policy_folder), AutoTokenizer.from_pretrained(policy_folder)
    inputs = tokenizer(["How are you?"], return_tensors="pt")
    generate = partial(LlamaForCausalLM.generate, policy, **inputs, max_new_tokens=8, do_sample=False)

    def steered(config):
        return generate(logits_processor=[RewardGuidedLogitsProcessor(reward_model, guidance_config=config)])

    expected, text = steered(strong), tokenizer.decode(steered(strong)[0], skip_special_tokens=True)
    assert not torch.equal(expected, steered(RewardGuidanceConfig(beta=1.0, top_k=10)))
    by_function = {"custom_generate": reward_guided_generate}
    by_name = {"custom_generate": name, "trust_remote_code": True}
    for given in (name, reward_model):
        assert torch.equal(generate(logits_processor=[RewardGuidedLogitsProcessor(given)]), expected)
        assert torch.equal(generate(reward_model=given, **by_function), expected)
        assert torch.equal(generate(reward_model=given, **by_name), expected)
        mixin = policy.generate(**inputs, reward_model=given, max_new_tokens=8, do_sample=False)
        assert torch.equal(mixin, expected)
    found = inspect(policy, tokenizer, reward_model, "Hi", max_new_tokens=2)
    assert (found.guidance_config.beta, found.guidance_config.top_k) == (8.0, 10)
    assert server_default(ServerSettings(reward_model=name)).beta == 8.0
    capsys.readouterr()
    models = ["--model", policy_folder, "--reward_model", name, "--max_new_tokens", "8", "--greedy"]
    assert main(["generate", *models, "--no_chat_template", "How are you?"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == text.removeprefix("How are you?").strip()
    assert "'beta': 8.0" in printed.err
