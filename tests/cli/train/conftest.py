"""What the commands of training start from."""

import pytest

from rgtg_hf.cli.main import main
from tests.stand_in_hub import trainer_hub  # noqa: F401


@pytest.fixture
def rollouts(policy_folder, reward_folder, tmp_path):
    """A file of rated responses of the policy, as `rollouts` writes it."""
    (tmp_path / "prompts.txt").write_text("Why?\nTell me more about the sea.\n")
    file = tmp_path / "rollouts.jsonl"
    made = ["--prompts", str(tmp_path / "prompts.txt"), "--reward", reward_folder, "--output", str(file)]
    short = ["--num_responses", "4", "--max_new_tokens", "5"]
    assert main(["rollouts", "--model", policy_folder, *made, *short]) == 0
    return str(file)
