"""Completes a saved reward model, so that others steer by its name, and uploads it."""

from huggingface_hub import HfApi

from rgtg_hf import RewardGuidanceConfig
from rgtg_hf.decoding.hub import write_custom_generate

folder, name = "reward_model", "owner/my-reward-model"

write_custom_generate(folder, RewardGuidanceConfig(beta=2.0, top_k=10), repository=name)

hub = HfApi()  # signed in by `hf auth login`
hub.create_repo(name, private=True, exist_ok=True)
hub.upload_folder(
    folder_path=folder,
    repo_id=name,
    allow_patterns=["*.json", "*.safetensors", "*.jinja", "README.md", "custom_generate/*"],
    ignore_patterns=["checkpoint-*"],
)
print(f'policy.generate(**inputs, custom_generate="{name}", trust_remote_code=True)')
