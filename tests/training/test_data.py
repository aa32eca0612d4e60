from collections import Counter

from datasets import Dataset, IterableDataset
from trl.trainer.reward_trainer import DataCollatorForPreference

from rgtg_hf.training.data import PrefixCollator, locate_responses


def locate(rows, tokenizer):
    counts = Counter()
    dataset = locate_responses(Dataset.from_list(rows), tokenizer, counts)
    dropped = {reason: count for reason, count in counts.items() if reason}
    return dataset.to_list(), dict(dropped)


def ids(tokenizer, text):
    return tokenizer(text)["input_ids"]


def test_rows_that_cannot_be_compared_are_dropped_and_counted(tokenizer):
    good = {"prompt": "a?", "chosen_ids": ids(tokenizer, "a?b</s>"), "rejected_ids": ids(tokenizer, "a?c</s>")}
    equal = good | {"rejected_ids": good["chosen_ids"]}
    empty = good | {"rejected_ids": ids(tokenizer, "a?</s>")}
    located, dropped = locate([good, equal, empty, equal], tokenizer)
    assert len(located) == 1
    assert dropped == {"equal": 2, "empty": 1}


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
    batch = PrefixCollator(DataCollatorForPreference(pad_token_id=0, pad_to_multiple_of=3))(rows)
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
