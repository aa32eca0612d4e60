import json
from collections import Counter

import pytest
from datasets import Dataset, IterableDataset

from rgtg_hf.training.checks import check_rows
from rgtg_hf.training.data import PrefixCollator, common_prefix_length, locate_responses


def locate(rows, tokenizer):
    counts = Counter()
    dataset = locate_responses(Dataset.from_list(rows), tokenizer, counts)
    dropped = {reason: count for reason, count in counts.items() if reason}
    return dataset.to_list(), dict(dropped)


def ids(tokenizer, text):
    return tokenizer(text)["input_ids"]


def test_shared_tokens_are_the_prompt_when_none_is_given(tokenizer):
    rows = [{"chosen_ids": ids(tokenizer, "ab?cd</s>"), "rejected_ids": ids(tokenizer, "ab?e</s>")}]
    located, dropped = locate(rows, tokenizer)
    assert located[0]["prompt_length"] == 3
    assert dropped == {}


def test_an_explicit_prompt_ends_where_it_says_even_if_responses_begin_alike(tokenizer):
    rows = [
        {"prompt": "ab?", "chosen_ids": ids(tokenizer, "ab?cd</s>"), "rejected_ids": ids(tokenizer, "ab?ce</s>")},
    ]
    located, _ = locate(rows, tokenizer)
    assert located[0]["prompt_length"] == 3


def test_closing_tokens_of_a_chat_template_are_one_end(tokenizer):
    chosen = [{"role": "user", "content": "ab?"}, {"role": "assistant", "content": "cd"}]
    rejected = [chosen[0], {"role": "assistant", "content": "e"}]
    rows = [
        {
            "chosen": chosen,
            "chosen_ids": tokenizer.apply_chat_template(chosen)["input_ids"],
            "rejected_ids": tokenizer.apply_chat_template(rejected)["input_ids"],
        }
    ]
    located, _ = locate(rows, tokenizer)
    assert located[0]["chosen_ids"] == ids(tokenizer, "<|user|>ab?<|assistant|>cd</s>")
    assert located[0]["rejected_ids"] == ids(tokenizer, "<|user|>ab?<|assistant|>e</s>")
    assert located[0]["prompt_length"] == 5


def test_tools_and_template_settings_belong_to_the_prompt(tokenizer):
    tokenizer.chat_template = "{% if tools %}{{ tools | length }}{% endif %}{{ mood }}" + tokenizer.chat_template
    user, kwargs = {"role": "user", "content": "ab?"}, {"mood": "m"}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    row = {"prompt": [user], "tools": json.dumps(tools), "chat_template_kwargs": kwargs}
    for key, answer in (("chosen", "cd"), ("rejected", "ce")):
        row[key] = [{"role": "assistant", "content": answer}]
        rendered = tokenizer.apply_chat_template([user, *row[key]], tools=tools, **kwargs)
        row[f"{key}_ids"] = rendered["input_ids"]
    located, _ = locate([row], tokenizer)
    assert located[0]["prompt_length"] == len(ids(tokenizer, "1m<|user|>ab?<|assistant|>"))
    assert located[0]["chosen_ids"][-1] == tokenizer.eos_token_id


def test_a_prompt_that_is_not_a_prefix_of_the_conversation_is_refused(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    row = {"prompt": [{"role": "user", "content": "a"}]}
    for key, answer in (("chosen", "b"), ("rejected", "c")):
        row[key] = [{"role": "assistant", "content": answer}]
        row[f"{key}_ids"] = tokenizer.apply_chat_template(row["prompt"] + row[key])["input_ids"]
    with pytest.raises(ValueError, match="prompt is not a prefix of the conversation"):
        locate([row], tokenizer)
    with pytest.raises(ValueError, match="prompt is not a prefix of the conversation"):
        locate([{"prompt_ids": [9], "chosen_ids": [5, 6], "rejected_ids": [5, 7]}], tokenizer)


def test_rows_that_cannot_be_compared_are_dropped_and_counted(tokenizer):
    good = {"prompt": "a?", "chosen_ids": ids(tokenizer, "a?b</s>"), "rejected_ids": ids(tokenizer, "a?c</s>")}
    equal = good | {"rejected_ids": good["chosen_ids"]}
    empty = good | {"rejected_ids": ids(tokenizer, "a?</s>")}
    located, dropped = locate([good, equal, empty, equal], tokenizer)
    assert len(located) == 1
    assert dropped == {"equal": 2, "empty": 1}


def test_an_answer_that_the_other_one_continues_is_kept_when_the_prompt_is_implicit(tokenizer):
    rows = [{"chosen_ids": ids(tokenizer, "a?b</s>"), "rejected_ids": ids(tokenizer, "a?bc</s>")}]
    located, dropped = locate(rows, tokenizer)
    assert dropped == {}
    assert located[0]["prompt_length"] == 3


def test_streams_are_prepared_too(tokenizer):
    rows = [
        {"chosen_ids": [5, 6, 2], "rejected_ids": [5, 7, 2]},
        {"chosen_ids": [5, 6, 2], "rejected_ids": [5, 6, 2]},
    ]
    counts = Counter()
    dataset = locate_responses(IterableDataset.from_generator(lambda: iter(rows)), tokenizer, counts)
    assert counts == {}
    assert [row["prompt_length"] for row in dataset] == [1]
    assert counts == {"": 1, "equal": 1}


def test_collator_pads_on_the_right_and_keeps_lengths():
    rows = [
        {"chosen_ids": [3, 4, 5, 2], "rejected_ids": [3, 4, 2], "prompt_length": 1, "margin": 0.5},
        {"chosen_ids": [6, 7], "rejected_ids": [6, 8, 9], "prompt_length": 1, "margin": 1},
    ]
    batch = PrefixCollator(pad_token_id=0, pad_to_multiple_of=3)(rows)
    assert batch["input_ids"].tolist() == [
        [3, 4, 5, 2, 0, 0],
        [6, 7, 0, 0, 0, 0],
        [3, 4, 2, 0, 0, 0],
        [6, 8, 9, 0, 0, 0],
    ]
    assert batch["attention_mask"].sum(1).tolist() == [4, 2, 3, 3]
    assert batch["response_length"].tolist() == [3, 1, 2, 2]
    assert batch["shared_length"].tolist() == [1, 0]
    assert batch["margin"].tolist() == [0.5, 1.0]


def test_common_prefix_stops_at_the_first_difference():
    assert common_prefix_length([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix_length([1, 2], [1, 2, 4]) == 2
    assert common_prefix_length([], [1]) == 0


MESSAGES = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "training data set is empty"),
        ([{"text": "a"}], r"columns \['text'\]; the first row has no `chosen` and `rejected`"),
        ([{"chosen": "a", "rejected": None}], "no `chosen` and `rejected`"),
        ([{"chosen": "a", "rejected": "b"}, {"chosen": "a", "rejected": None}], "Row 1 of .* no usable `rejected`"),
        ([{"prompt": "a", "chosen": MESSAGES, "rejected": MESSAGES}], "mixes formats: `prompt` is text"),
    ],
)
def test_unusable_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        check_rows(Dataset.from_list(rows), "training")


def test_a_stream_checks_rows_as_they_are_read():
    rows = [{"chosen": "a", "rejected": "b"}, {"chosen": MESSAGES, "rejected": MESSAGES}]
    stream = check_rows(IterableDataset.from_generator(lambda: iter(rows)), "training")
    with pytest.raises(ValueError, match="Row 1 of the training data set has no usable `chosen`: it is a list of mes"):
        list(stream)
