import pytest
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from rgtg_hf import RewardGuidanceConfig
from rgtg_hf.cli.main import main
from tests.tiny_models import tiny_steering_head


@pytest.fixture
def save_head(tmp_path, policy_folder):
    def save(seed=3, nonlinear=False):
        head = tiny_steering_head(AutoModelForCausalLM.from_pretrained(policy_folder), seed, nonlinear=nonlinear)
        head.save_pretrained(tmp_path / f"head-{seed}")
        return str(tmp_path / f"head-{seed}"), head

    return save


def test_the_merged_checkpoint_is_the_steered_policy(tmp_path, policy_folder, save_head):
    (first, one), (second, other) = save_head(3), save_head(4)
    arguments = ["--heads", first, second, "--betas", "1.5", "-0.5", "--output_dir", str(tmp_path / "merged")]
    assert main(["merge", "--model", policy_folder, *arguments]) == 0
    ids = AutoTokenizer.from_pretrained(tmp_path / "merged")("Hello", return_tensors="pt")["input_ids"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    expected = AutoModelForCausalLM.from_pretrained(policy_folder)(ids).logits[:, -1]
    expected = expected + 1.5 * one.next_token_rewards(ids) - 0.5 * other.next_token_rewards(ids)
    assert_close(merged(ids).logits[:, -1], expected, atol=1e-4, rtol=1e-4)


def test_a_head_is_merged_with_the_strength_that_is_saved_beside_it(tmp_path, policy_folder, save_head, capsys):
    (first, one), (second, other) = save_head(3), save_head(4)
    RewardGuidanceConfig(beta=3.0).save_pretrained(first)
    arguments = ["--heads", first, second, "--output_dir", str(tmp_path / "merged")]
    assert main(["merge", "--model", policy_folder, *arguments]) == 0
    assert "beta 3, 1" in capsys.readouterr().out
    ids = AutoTokenizer.from_pretrained(tmp_path / "merged")("Hello", return_tensors="pt")["input_ids"]
    expected = AutoModelForCausalLM.from_pretrained(policy_folder)(ids).logits[:, -1]
    expected = expected + 3.0 * one.next_token_rewards(ids) + other.next_token_rewards(ids)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert_close(merged(ids).logits[:, -1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # of PEFT's
def test_the_adapter_steers_the_policy(tmp_path, policy_folder, save_head, capsys):
    from peft import PeftModel

    (first, one), (second, other) = save_head(3), save_head(4)
    arguments = ["--heads", first, second, "--betas", "1.5", "-0.5", "--lora", "--output_dir", str(tmp_path / "kind")]
    assert main(["merge", "--model", policy_folder, *arguments]) == 0
    assert "a LoRA adapter of rank 8" in capsys.readouterr().out
    ids = AutoTokenizer.from_pretrained(policy_folder)("Hello", return_tensors="pt")["input_ids"]
    policy = AutoModelForCausalLM.from_pretrained(policy_folder)
    expected = policy(ids).logits[:, -1] + 1.5 * one.next_token_rewards(ids) - 0.5 * other.next_token_rewards(ids)
    adapted = PeftModel.from_pretrained(policy, tmp_path / "kind")
    assert_close(adapted(ids).logits[:, -1], expected, atol=1e-4, rtol=1e-4)
    assert str(tmp_path) not in "".join(file.read_text() for file in (tmp_path / "kind").glob("*.json"))


def test_a_nonlinear_head_is_refused_in_one_line(capsys, tmp_path, policy_folder, save_head):
    head, _ = save_head(nonlinear=True)
    capsys.readouterr()
    arguments = ["--model", policy_folder, "--heads", head, "--output_dir", str(tmp_path / "merged")]
    assert main(["merge", *arguments]) == 2
    error = capsys.readouterr().err
    assert "nonlinear=True" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "merged").exists()


def test_betas_and_heads_must_agree_in_number(capsys, tmp_path, policy_folder, save_head):
    head, _ = save_head()
    arguments = ["--heads", head, "--betas", "1", "2", "--output_dir", str(tmp_path / "merged")]
    assert main(["merge", "--model", policy_folder, *arguments]) == 2
    assert "2 values for 1 heads" in capsys.readouterr().err


def test_a_model_that_is_no_head_is_refused(capsys, tmp_path, policy_folder, reward_folder):
    arguments = ["--model", policy_folder, "--heads", reward_folder, "--output_dir", str(tmp_path / "merged")]
    assert main(["merge", *arguments]) == 2
    assert "is not a steering head" in capsys.readouterr().err
