"""An ordinary script for TRL's reward trainer, with two names changed: the lines marked + are new."""

from datasets import load_dataset

# from trl import RewardConfig, RewardTrainer
from rgtg_hf import PrefixRewardConfig, PrefixRewardTrainer  # +

pairs = load_dataset("json", data_files="pairs.jsonl", split="train").train_test_split(0.2, seed=0)

trainer = PrefixRewardTrainer(  # + was RewardTrainer
    model="HuggingFaceTB/SmolLM2-135M-Instruct",
    args=PrefixRewardConfig(  # + was RewardConfig
        output_dir="reward_model",
        num_layers=10,  # + optional: the first layers alone, for cheaper steps
        num_train_epochs=1,
        per_device_train_batch_size=8,
        eval_strategy="epoch",
        gradient_checkpointing=False,
        report_to="none",
    ),
    train_dataset=pairs["train"],
    eval_dataset=pairs["test"],
)
trainer.train()
trainer.save_model()
