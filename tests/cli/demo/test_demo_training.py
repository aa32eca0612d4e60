from rich.console import Console
from transformers import AutoTokenizer

from rgtg_hf.cli.demo.demo_training import reward_model_notes, train_reward_model


def test_a_reward_model_is_trained_once_for_the_same_notes(policy_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(policy_folder)
    folder = tmp_path / "reward_model"

    def train(seed, retrain=False):
        notes = reward_model_notes("tiny", num_layers=1, max_steps=1, seed=seed)
        summary = train_reward_model(folder, policy_folder, tokenizer, notes, Console(quiet=True), retrain=retrain)
        return summary, (folder / "model.safetensors").stat().st_mtime_ns

    first = train(seed=0)
    assert 0 <= first[0]["accuracy"] <= 1
    assert train(seed=0) == first
    other = train(seed=1)
    assert other[1] > first[1]
    assert train(seed=1, retrain=True)[1] > other[1]
