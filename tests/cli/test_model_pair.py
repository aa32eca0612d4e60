import json
from argparse import Namespace

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification

from rgtg_hf import NextTokenRewardModel, steering
from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.main import main
from rgtg_hf.cli.model_pair import is_steering_head, load_models
from rgtg_hf.cli.prompt_files import encode_prompts
from tests.cli.conftest import byte_tokenizer, save


def options(policy, reward_model):
    return Namespace(model=policy, reward_model=reward_model, dtype="auto", device="cpu", trust_remote_code=False)


def expected_text(policy_folder, head_folder, prompt):
    policy = AutoModelForCausalLM.from_pretrained(policy_folder)
    tokenizer = AutoTokenizer.from_pretrained(policy_folder)
    inputs = encode_prompts(tokenizer, [prompt])
    with steering(policy, [(NextTokenRewardModel.from_pretrained(head_folder), 50.0)], top_k=6) as processor:
        output = policy.generate(**inputs, logits_processor=[processor], max_new_tokens=8, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.fixture
def guided(policy_folder, head_folder):
    """The options of a greedy run that the head guides strongly."""
    models = ["--model", policy_folder, "--reward_model", head_folder]
    return [*models, "--max_new_tokens", "8", "--greedy", "--beta", "50", "--top_k", "6"]


def test_generate_takes_a_steering_head(guided, policy_folder, head_folder, capsys):
    assert main(["generate", *guided, "Hello"]) == 0
    text = capsys.readouterr().out
    assert text == expected_text(policy_folder, head_folder, "Hello") + "\n"
    assert main(["generate", *guided, "--beta", "0", "Hello"]) == 0
    assert capsys.readouterr().out != text


def test_a_file_is_written_with_a_steering_head(guided, policy_folder, head_folder, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Hello\nA longer prompt?\n")
    assert main(["generate", *guided, "--prompts", str(prompts), "--output", str(tmp_path / "out.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["response"] for row in rows] == [
        expected_text(policy_folder, head_folder, row["prompt"]) for row in rows
    ]


def test_inspect_takes_a_steering_head(guided, tmp_path):
    assert main(["inspect", *guided, "--output", str(tmp_path / "page.html"), "Hello"]) == 0


def test_the_head_of_another_policy_is_refused_in_one_line(head_folder, tmp_path, capsys):
    other = save(tmp_path, LlamaForCausalLM, byte_tokenizer(), seed=9, num_hidden_layers=3, hidden_size=64)
    assert main(["generate", "--model", other, "--reward_model", head_folder, "Hello"]) == 2
    error = capsys.readouterr().err
    assert "does not fit the policy" in error
    assert error.splitlines()[-1].startswith("rgtg-hf: error: --reward_model")


def test_a_head_is_attached_and_other_reward_models_are_not_heads(policy_folder, reward_folder, head_folder):
    policy, _, head = load_models(options(policy_folder, head_folder))
    assert head.backbone is policy.model
    assert is_steering_head(head_folder)
    assert not is_steering_head(reward_folder)


def test_a_reward_model_is_not_a_policy(tmp_path):
    folder = save(
        tmp_path, LlamaForSequenceClassification, byte_tokenizer(), seed=2, num_labels=1, tie_word_embeddings=True
    )
    with pytest.raises(UserError, match="is a reward model; give the language model"):
        load_models(options(folder, folder))
