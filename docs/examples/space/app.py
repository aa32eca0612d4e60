"""The playground as a Space: put this folder into one, and change the two names."""

from rgtg_hf.cli.playground.playground_command import make_app

POLICY = "HuggingFaceTB/SmolLM2-135M-Instruct"
REWARD_MODEL = "your-name/your-prefix-reward-model"

if __name__ == "__main__":
    make_app(["--model", POLICY, "--reward_model", REWARD_MODEL, "--beta", "2", "--max_new_tokens", "64"]).launch()
