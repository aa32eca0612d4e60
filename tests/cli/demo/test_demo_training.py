import pytest
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgtg_hf.cli.demo import demo_training
from rgtg_hf.cli.demo.demo_training import head_notes, reward_model_notes, train_for_demo
from rgtg_hf.rewards.next_token import NextTokenRewardModel


def notes_of(kind, seed):
    if kind == "head":
        return head_notes("tiny", max_steps=1, seed=seed)
    return reward_model_notes("tiny", num_layers=1, max_steps=1, seed=seed)


@pytest.mark.parametrize("kind", ["reward model", "head"])
def test_a_model_is_trained_once_for_the_same_notes(kind, policy_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_training, "_HEAD_PAIRS", 4)
    tokenizer, policy = (
        AutoTokenizer.from_pretrained(policy_folder),
        AutoModelForCausalLM.from_pretrained(policy_folder),
    )
    folder = tmp_path / "trained"

    def train(seed, retrain=False):
        notes, console = notes_of(kind, seed), Console(quiet=True)
        summary = train_for_demo(folder, policy, policy_folder, tokenizer, notes, console, retrain=retrain)
        return summary, (folder / "model.safetensors").stat().st_mtime_ns

    first = train(seed=0)
    assert 0 <= first[0]["accuracy"] <= 1
    assert train(seed=0) == first
    other = train(seed=1)
    assert other[1] > first[1]
    assert train(seed=1, retrain=True)[1] > other[1]
    if kind == "head":
        NextTokenRewardModel.from_pretrained(folder).attach(policy)
