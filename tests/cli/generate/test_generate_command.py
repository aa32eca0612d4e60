import json

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from rgtg_hf.cli.main import main
from rgtg_hf.cli.prompt_files import encode_prompts

SHORT = ["--max_new_tokens", "8"]


@pytest.fixture
def models(policy_folder, reward_folder):
    return ["--model", policy_folder, "--reward_model", reward_folder]


def guided_text(policy_folder, reward_folder, prompt):
    policy = AutoModelForCausalLM.from_pretrained(policy_folder)
    processor = RewardGuidedLogitsProcessor(
        AutoModelForSequenceClassification.from_pretrained(reward_folder), beta=4.0, top_k=6
    )
    tokenizer = AutoTokenizer.from_pretrained(policy_folder)
    inputs = encode_prompts(tokenizer, [prompt])
    output = policy.generate(**inputs, logits_processor=[processor], max_new_tokens=8, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_one_prompt_is_streamed_and_steered_as_the_processor_does(capsys, models, policy_folder, reward_folder):
    assert main(["generate", *models, *SHORT, "--greedy", "--beta", "4", "--top_k", "6", "Tell me a story."]) == 0
    expected = guided_text(policy_folder, reward_folder, "Tell me a story.")
    assert capsys.readouterr().out == expected + "\n"


def test_several_prompts_are_printed_in_order_whatever_the_batch_size(capsys, models, tmp_path):
    prompts = ["First?", "A second and longer one?", "Third?"]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    printed = []
    for batch_size in ("1", "2", "8"):
        arguments = ["--prompts", str(file), "--greedy", "--batch_size", batch_size]
        assert main(["generate", *models, *SHORT, *arguments]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == printed[2]
    assert [line for line in printed[0].splitlines() if line.startswith("> ")] == [f"> {p}" for p in prompts]


@pytest.mark.parametrize(
    ("arguments", "saved", "search"),
    [
        ([], {}, "best"),
        ([], {"top_k": 6, "num_rows": 2}, "best"),
        (["--num_rows", "2"], {}, "best"),
        (["--beta", "1"], {}, "tokens"),
        (["--max_step_kl", "0.5"], {}, "tokens"),
        (["--greedy"], {}, "tokens"),
        (["--search", "resample"], {}, "resample"),
        (["--search", "tokens"], {}, "tokens"),
        ([], {"beta": 2.0}, "tokens"),
        ([], {"search": "halve"}, "halve"),
        (["--beta", "1"], {"search": "halve"}, "halve"),
    ],
)
def test_without_a_strength_it_searches(arguments, saved, search, models, capsys, monkeypatch):
    found = {}
    monkeypatch.setattr(
        "rgtg_hf.decoding.generation.generate_guided",
        lambda *_, guidance_config, input_ids, **__: found.update(search=guidance_config.search) or input_ids,
    )
    monkeypatch.setattr("rgtg_hf.config._saved_guidance", lambda _: RewardGuidanceConfig(**saved))
    assert main(["generate", *models, *arguments, "Hello"]) == 0
    assert found["search"] == search
    told = [line for line in capsys.readouterr().err.splitlines() if "since no --beta is given" in line]
    assert len(told) == (search == "best")


def test_what_is_found_by_default_is_what_the_search_finds(models, capsys):
    printed = []
    for arguments in ([], ["--search", "best"], ["--beta", "1"]):
        assert main(["generate", *models, *SHORT, *arguments, "Hello"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]


def test_seed_decides_the_samples(capsys, models):
    def sample(seed):
        assert main(["generate", *models, "--max_new_tokens", "20", "--seed", seed, "Hello"]) == 0
        return capsys.readouterr().out

    assert sample("1") == sample("1") != sample("2")


def test_different_vocabularies_are_refused_by_name(capsys, policy_folder, foreign_reward_folder):
    assert main(["generate", "--model", policy_folder, "--reward_model", foreign_reward_folder, "hi"]) == 2
    error = capsys.readouterr().err
    assert 'different vocabularies (259 and 260 tokens; for example "xy" is absent and 259)' in error
    assert error.count("\n") == 1


def test_reward_model_with_several_labels_is_refused(capsys, policy_folder, tmp_path):
    from transformers import LlamaForSequenceClassification

    from tests.cli.conftest import byte_tokenizer, save

    folder = save(tmp_path, LlamaForSequenceClassification, byte_tokenizer(), 1, num_labels=2)
    assert main(["generate", "--model", policy_folder, "--reward_model", folder, "hi"]) == 2
    assert "num_labels" in capsys.readouterr().err


def test_folder_without_a_model_is_refused(capsys, policy_folder, tmp_path):
    assert main(["generate", "--model", policy_folder, "--reward_model", str(tmp_path), "hi"]) == 2
    assert "has no config.json" in capsys.readouterr().err
