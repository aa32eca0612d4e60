import json

import pytest

from rgtg_hf.rewards.pairs import TEXT, common_prefix_length, pair_ids
from tests.training.helpers import make_tokenizer, text_rows


@pytest.fixture
def tokenizer():
    return make_tokenizer()


def ids(tokenizer, text):
    return tokenizer(text)["input_ids"]


def test_shared_tokens_are_the_prompt_when_none_is_given(tokenizer):
    row = {"chosen_ids": ids(tokenizer, "ab?cd</s>"), "rejected_ids": ids(tokenizer, "ab?e</s>")}
    assert pair_ids(row, tokenizer) == row | {"prompt_length": 3, "dropped": ""}


def test_an_explicit_prompt_ends_where_it_says_even_if_responses_begin_alike(tokenizer):
    row = {"prompt": "ab?", "chosen_ids": ids(tokenizer, "ab?cd</s>"), "rejected_ids": ids(tokenizer, "ab?ce</s>")}
    assert pair_ids(row, tokenizer)["prompt_length"] == 3


def test_closing_tokens_of_a_chat_template_are_one_end(tokenizer):
    chosen = [{"role": "user", "content": "ab?"}, {"role": "assistant", "content": "cd"}]
    rejected = [chosen[0], {"role": "assistant", "content": "e"}]
    located = pair_ids({"chosen": chosen, "rejected": rejected}, tokenizer)
    assert located["chosen_ids"] == ids(tokenizer, "<|user|>ab?<|assistant|>cd</s>")
    assert located["rejected_ids"] == ids(tokenizer, "<|user|>ab?<|assistant|>e</s>")
    assert located["prompt_length"] == 5


def test_tools_and_template_settings_belong_to_the_prompt(tokenizer):
    tokenizer.chat_template = "{% if tools %}{{ tools | length }}{% endif %}{{ mood }}" + tokenizer.chat_template
    user, kwargs = {"role": "user", "content": "ab?"}, {"mood": "m"}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    row = {"prompt": [user], "tools": json.dumps(tools), "chat_template_kwargs": kwargs}
    for key, answer in (("chosen", "cd"), ("rejected", "ce")):
        row[key] = [{"role": "assistant", "content": answer}]
        rendered = tokenizer.apply_chat_template([user, *row[key]], tools=tools, **kwargs)
        row[f"{key}_ids"] = rendered["input_ids"]
    located = pair_ids(row, tokenizer)
    assert located["prompt_length"] == len(ids(tokenizer, "1m<|user|>ab?<|assistant|>"))
    assert located["chosen_ids"][-1] == tokenizer.eos_token_id


def test_a_prompt_that_is_not_a_prefix_of_the_conversation_is_refused(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    row = {"prompt": [{"role": "user", "content": "a"}]}
    for key, answer in (("chosen", "b"), ("rejected", "c")):
        row[key] = [{"role": "assistant", "content": answer}]
        row[f"{key}_ids"] = tokenizer.apply_chat_template(row["prompt"] + row[key])["input_ids"]
    with pytest.raises(ValueError, match="prompt is not a prefix of the conversation"):
        pair_ids(row, tokenizer)
    with pytest.raises(ValueError, match="prompt is not a prefix of the conversation"):
        pair_ids({"prompt_ids": [9], "chosen_ids": [5, 6], "rejected_ids": [5, 7]}, tokenizer)


def test_an_answer_that_the_other_one_continues_is_kept_when_the_prompt_is_implicit(tokenizer):
    row = {"chosen_ids": ids(tokenizer, "a?b</s>"), "rejected_ids": ids(tokenizer, "a?bc</s>")}
    assert pair_ids(row, tokenizer) == row | {"prompt_length": 3, "dropped": ""}


def test_common_prefix_stops_at_the_first_difference():
    assert common_prefix_length([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix_length([1, 2], [1, 2, 4]) == 2
    assert common_prefix_length([], [1]) == 0


def test_pairs_that_cannot_be_compared_say_why(tokenizer):
    assert pair_ids({"prompt": "a?", "chosen": "b", "rejected": "b"}, tokenizer)["dropped"] == "equal"
    assert pair_ids({"prompt": "a?", "chosen": "b", "rejected": ""}, tokenizer)["dropped"] == "empty"


def chat(text, role):
    return [{"role": role, "content": text}]


FORMS = {
    "text": lambda row: row,
    "text with the prompt inside": lambda row: {column: row["prompt"] + row[column] for column in TEXT},
    "messages": lambda row: {"prompt": chat(row["prompt"], "user"), **{c: chat(row[c], "assistant") for c in TEXT}},
    "whole conversations": lambda row: {
        column: chat(row["prompt"], "user") + chat(row[column], "assistant") for column in TEXT
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_ids_are_those_that_the_trainer_reads(form, tokenizer, make_trainer):
    """Parity: evaluation reads rows by themselves, training after TRL has tokenized them."""
    rows = [FORMS[form](row) for row in text_rows()]
    read = [pair_ids(row, tokenizer) for row in rows]
    located = make_trainer(rows).train_dataset.remove_columns("length")
    assert read == [dict(row) for row in located]
