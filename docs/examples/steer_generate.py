"""A script that generates, with steering added: the lines marked + are new."""

from transformers import AutoModelForCausalLM, AutoTokenizer

from rgtg_hf import RewardGuidedLogitsProcessor  # +
from rgtg_hf.rewards.load import load_reward_model  # +

name = "HuggingFaceTB/SmolLM2-135M-Instruct"
policy = AutoModelForCausalLM.from_pretrained(name)
tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
reward_model = load_reward_model("outputs/demo/reward_model")  # +
steer = RewardGuidedLogitsProcessor(reward_model, beta=2.0, tokenizer=tokenizer)  # +

prompts = ["The concert last night was", "My grandfather's workshop"]
inputs = tokenizer(prompts, padding=True, return_tensors="pt")
output = policy.generate(
    **inputs,
    logits_processor=[steer],  # +
    do_sample=True,
    top_k=0,
    max_new_tokens=32,
)
for text in tokenizer.batch_decode(output, skip_special_tokens=True):
    print(text)
