"""A saved reward model steers by its name, in a process that knows transformers alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from rgtg_hf.decoding.hub import add_to_card, generate_by_name, write_custom_generate
from rgtg_hf.rewards import named
from rgtg_hf.rewards.load import load_reward_model as load
from tests.tiny_models import left_padded, tiny_policy, tiny_reward_model
from tests.versions import since

IDS, MASK = left_padded([[5, 6, 7, 8], [9, 10]])
SHORT = {"max_new_tokens": 8, "do_sample": False}
RECOMMENDED = RewardGuidanceConfig(beta=4.0, top_k=6)

STRANGER = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

policy = AutoModelForCausalLM.from_pretrained("policy")
ids, mask, options = (json.loads(argument) for argument in sys.argv[1:])
inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
steering = {"custom_generate": "reward", "reward_model": "reward", "trust_remote_code": True}
assert not any(name.startswith("rgtg_hf") for name in sys.modules)
print(json.dumps([policy.generate(**inputs, **steering, **settings).tolist() for settings in options]))
assert AutoModelForSequenceClassification.from_pretrained("reward").config.num_labels == 1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    tiny_policy().save_pretrained(folder / "policy")
    tiny_reward_model().save_pretrained(folder / "reward")
    write_custom_generate(folder / "reward", RECOMMENDED)
    return folder


@pytest.fixture(autouse=True)
def here(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


def steered(config, **options):
    policy = AutoModelForCausalLM.from_pretrained("policy")
    reward_model = AutoModelForSequenceClassification.from_pretrained("reward")
    processor = RewardGuidedLogitsProcessor(reward_model, guidance_config=config, attention_mask=MASK)
    return policy.generate(IDS, attention_mask=MASK, logits_processor=[processor], **options).tolist()


def test_a_stranger_is_steered_by_the_name_alone(place, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    beams = {"max_new_tokens": 8, "num_beams": 2, "do_sample": False}
    options = [SHORT, SHORT | {"beta": 1.5}, beams | {"beta": 1.5}]
    arguments = [json.dumps(part) for part in (IDS.tolist(), MASK.tolist(), options)]
    run = subprocess.run([sys.executable, "-c", STRANGER, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    by_name = json.loads(run.stdout)
    weaker = RewardGuidanceConfig(beta=1.5, top_k=6)
    assert by_name == [steered(RECOMMENDED, **SHORT), steered(weaker, **SHORT), steered(weaker, **beams)]
    policy = AutoModelForCausalLM.from_pretrained("policy")
    assert by_name[0] != policy.generate(IDS, attention_mask=MASK, **SHORT).tolist()


@since("5.12", "code in a local folder runs without being asked for")
def test_without_trust_nothing_is_run(place):
    policy = AutoModelForCausalLM.from_pretrained("policy")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        policy.generate(IDS, custom_generate="reward", trust_remote_code=False, **SHORT)


def test_the_reward_model_is_loaded_once_per_policy(place, monkeypatch):
    loaded = []
    monkeypatch.setattr(named, "load_reward_model", lambda name, *a, **k: loaded.append(name) or load(name, *a, **k))
    policy = AutoModelForCausalLM.from_pretrained("policy")
    by_name = {"custom_generate": "reward", "reward_model": "reward", "trust_remote_code": True}
    for beta in (0.5, 1.0):
        policy.generate(IDS, beta=beta, **by_name, **SHORT)
    assert loaded == ["reward"]


def test_a_reward_model_can_be_given_instead_of_named(place):
    policy = AutoModelForCausalLM.from_pretrained("policy")
    reward_model = AutoModelForSequenceClassification.from_pretrained("reward")
    given = generate_by_name(policy, reward_model, input_ids=IDS, attention_mask=MASK, beta=4.0, top_k=6, **SHORT)
    assert given.tolist() == steered(RECOMMENDED, **SHORT)
    with pytest.raises(ValueError, match="pass `reward_model=`"):
        generate_by_name(policy, input_ids=torch.tensor([[5]]))


def test_a_repository_knows_its_own_name(place, tmp_path, monkeypatch):
    shutil.copytree("reward", tmp_path / "copy")
    write_custom_generate(tmp_path / "copy", repository="owner/reward")
    policy = AutoModelForCausalLM.from_pretrained("policy")
    monkeypatch.setattr(named, "load_reward_model", lambda name, *a, **k: load({"owner/reward": "reward"}[name]))
    by_name = {"custom_generate": str(tmp_path / "copy"), "trust_remote_code": True}
    found = policy.generate(IDS, attention_mask=MASK, **by_name, **SHORT)
    assert found.tolist() == steered(RECOMMENDED, **SHORT)
    with pytest.raises(ValueError, match="pass `reward_model=`"):
        policy.generate(IDS, custom_generate="reward", trust_remote_code=True, **SHORT)


def test_files_that_are_written_name_no_place_and_keep_the_settings(place):
    write_custom_generate("reward")
    assert RewardGuidanceConfig.from_pretrained("reward") == RECOMMENDED
    written = "".join(path.read_text() for path in Path("reward", "custom_generate").iterdir())
    assert str(place) not in written
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        write_custom_generate(place)


def test_a_card_gets_the_section_once():
    card = "# Name\n\ntext\n\n## Evaluation\n\nfigures\n"
    once = add_to_card(card, "owner/rm", "policy", 1.5)
    assert once.index("## Steer by name") < once.index("## Evaluation")
    assert add_to_card(once, "owner/rm", "policy", 1.5) == once
    assert "beta=3.0" in add_to_card(once, "owner/rm", "policy", 3.0)
    bare = add_to_card("# Name\n", "owner/rm", "policy", 1.5)
    assert add_to_card(bare, "owner/rm", "policy", 1.5) == bare
