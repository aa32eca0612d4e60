import json
import os
import subprocess
import sys

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, LlamaForSequenceClassification

from rgtg_hf import RewardGuidanceConfig, RewardGuidedLogitsProcessor
from rgtg_hf.evaluation.harness import GuidedHarnessLM
from rgtg_hf.rewards.load import load_reward_model
from tests.cli.conftest import byte_tokenizer, save

QUESTIONS = ["Hello there", "How was the long day at the sea?", "Tell me"]
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:lm_eval"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("harness")
    policy = save(place / "policy", LlamaForCausalLM, byte_tokenizer(), 0)
    reward = save(place / "reward", LlamaForSequenceClassification, byte_tokenizer(), 5, num_labels=1)
    (place / "questions.jsonl").write_text("".join(json.dumps({"question": one}) + "\n" for one in QUESTIONS))
    return place, policy, reward


def task(place, **more):
    """A task of the harness without anything from the hub: the share of responses that are what they should be."""
    return {
        "task": "short_answers",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(place / "questions.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "unknown",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    } | more


@pytest.fixture(scope="module")
def run(folders):
    manager = TaskManager(include_defaults=False)  # to read those takes seconds

    def of(model, **more):
        found = lm_eval.simple_evaluate(
            model=model, tasks=[task(folders[0], **more)], bootstrap_iters=0, task_manager=manager
        )
        return found, responses_of(found)

    return of


def responses_of(found):
    samples = sorted(found["samples"]["short_answers"], key=lambda sample: sample["doc_id"])
    return [sample["resps"][0][0] for sample in samples]


def by_hand(policy, reward, **settings):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    texts = []
    for question in QUESTIONS:
        inputs = tokenizer(question, return_tensors="pt")
        processor = RewardGuidedLogitsProcessor(load_reward_model(reward), **settings) if settings else []
        output = model.generate(
            **inputs, logits_processor=[processor] if settings else [], max_new_tokens=8, do_sample=False
        )
        texts.append(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


@pytest.mark.parametrize("batch_size", [1, 3])
def test_responses_in_the_harness_are_those_of_the_processor(folders, run, batch_size):
    _, policy, reward = folders
    model = GuidedHarnessLM(policy, reward, beta=4.0, top_k=5, batch_size=batch_size, device="cpu")
    found, responses = run(model)
    assert responses == by_hand(policy, reward, beta=4.0, top_k=5)
    assert responses != by_hand(policy, reward)
    assert found["results"]["short_answers"]["exact_match,none"] == 0.0


def test_saved_settings_are_obeyed_and_searches_too(folders, run, tmp_path):
    _, policy, _ = folders
    reward = save(tmp_path, LlamaForSequenceClassification, byte_tokenizer(), 5, num_labels=1)
    RewardGuidanceConfig(beta=4.0, top_k=5).save_pretrained(reward)
    _, responses = run(GuidedHarnessLM(policy, reward, device="cpu"))
    assert responses == by_hand(policy, reward, beta=4.0, top_k=5)
    sampled = {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    searching = GuidedHarnessLM(policy, reward, search="best", num_rows=2, block_size=4, device="cpu")
    _, found = run(searching, generation_kwargs=sampled)
    assert len(found) == 3


def test_tasks_that_compare_likelihoods_are_refused(folders, run):
    _, policy, reward = folders
    model = GuidedHarnessLM(policy, reward, device="cpu")
    choices = {"output_type": "multiple_choice", "doc_to_choice": ["yes", "no"], "doc_to_target": 0}
    with pytest.raises(NotImplementedError, match="choose tasks that generate text"):
        run(model, **choices, generation_kwargs=None, metric_list=[{"metric": "acc"}])


def test_what_is_wrong_with_the_models_is_told_at_once(folders):
    _, policy, reward = folders
    with pytest.raises(OSError, match="nowhere"):
        GuidedHarnessLM(policy, "./nowhere", device="cpu")
    with pytest.raises(ValueError, match="beta"):
        GuidedHarnessLM(policy, reward, beta=float("nan"), device="cpu")


@pytest.mark.slow
def test_the_command_of_the_harness_knows_the_model_type(folders, tmp_path):
    place, policy, reward = folders
    (tmp_path / "short_answers.yaml").write_text(json.dumps(task(place)))  # JSON is YAML
    arguments = ["--model", "rgtg", "--model_args", f"pretrained={policy},reward_model={reward},beta=4.0,top_k=5"]
    arguments += ["--tasks", "short_answers", "--include_path", str(tmp_path), "--device", "cpu"]
    arguments += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    command = [sys.executable, "-m", "rgtg_hf.evaluation.harness", "run", *arguments]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    assert [row["resps"][0][0] for row in rows] == by_hand(policy, reward, beta=4.0, top_k=5)
