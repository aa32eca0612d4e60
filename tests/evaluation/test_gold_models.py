import math

import pytest
import torch
from transformers import LlamaForSequenceClassification

from rgtg_hf.evaluation.gold import flesch_reading_ease, vader_sentiment
from rgtg_hf.evaluation.gold_models import load_gold, rate
from tests.cli.conftest import byte_tokenizer, save

PROMPTS, TEXTS = ["How was it?", "Why?"], ["A wonderful day!", "It was terrible, and it rained."]


@pytest.mark.parametrize(("name", "measure"), [("vader", vader_sentiment), ("flesch", flesch_reading_ease)])
def test_a_built_in_measure_judges_the_responses_alone(name, measure):
    assert load_gold(name)(PROMPTS, TEXTS) == measure(TEXTS)


def test_a_function_gets_prompts_and_responses(tmp_path, monkeypatch):
    (tmp_path / "own_gold.py").write_text(
        "def total(prompts, texts):\n    return [len(p + t) for p, t in zip(prompts, texts)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    gold = load_gold("own_gold:total")
    assert gold(PROMPTS, TEXTS) == [len(prompt + text) for prompt, text in zip(PROMPTS, TEXTS, strict=True)]
    with pytest.raises(ValueError, match="no function 'average'"):
        load_gold("own_gold:average")


def test_a_missing_module_or_model_is_an_error(tmp_path):
    with pytest.raises(ImportError, match="no_such_module"):
        load_gold("no_such_module:gold")
    with pytest.raises(OSError, match="nothing"):
        load_gold(str(tmp_path / "nothing"))


def test_a_reward_model_reads_prompt_and_response_through_its_own_tokenizer(tmp_path):
    tokenizer = byte_tokenizer()
    folder = save(tmp_path, LlamaForSequenceClassification, tokenizer, 5, num_labels=1)
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    for prompt, text, found in zip(PROMPTS, TEXTS, load_gold(str(folder))(PROMPTS, TEXTS), strict=True):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([ids])).logits.item()
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_classifier_with_two_labels_is_refused(tmp_path):
    folder = save(tmp_path, LlamaForSequenceClassification, byte_tokenizer(), 5, num_labels=2)
    with pytest.raises(ValueError, match="2 labels"):
        load_gold(str(folder))


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ([1.0], "returned 1 numbers for 2 responses"),
        (0.5, "returned 0.5 for 2 responses, but a list"),
        (["good", "bad"], "a list of numbers is required"),
        ([1.0, math.nan], "is nan for the response 'b', but it must be finite"),
    ],
)
def test_a_reward_that_is_not_one_number_for_each_response_is_refused(returned, words):
    with pytest.raises(ValueError, match=words):
        rate(lambda prompts, responses: returned, ["p", "p"], ["a", "b"])
