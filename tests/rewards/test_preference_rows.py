import math

import pytest
import torch
from datasets import Dataset, IterableDataset

from rgtg_hf.rewards.preference_rows import check_rows

MESSAGES = [{"role": "user", "content": "a"}]
TEXT = {"prompt": "a", "chosen": "b", "rejected": "c"}
IDS = {"chosen_ids": [5, 6, 2], "rejected_ids": [5, 7, 2]}


def stream(rows):
    return IterableDataset.from_generator(lambda: iter(rows))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "training data set is empty"),
        ([{"text": "a"}], r"columns \['text'\]; the first row has no `chosen` and `rejected`"),
        ([{"chosen": "a", "rejected": None}], "no `chosen` and `rejected`"),
        ([{"chosen": "a", "rejected": "b"}, {"chosen": "a", "rejected": None}], "Row 2 of .* no usable `rejected`"),
        ([{"prompt": "a", "chosen": MESSAGES, "rejected": MESSAGES}], "mixes formats: `prompt` is text"),
    ],
)
def test_unusable_rows_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        check_rows(Dataset.from_list(rows), "training")


def test_a_stream_checks_rows_as_they_are_read():
    rows = [{"chosen": "a", "rejected": "b"}, {"chosen": MESSAGES, "rejected": MESSAGES}]
    checked = check_rows(stream(rows), "training")
    with pytest.raises(ValueError, match="Row 2 of the training data set has no usable `chosen`: it is a list of mes"):
        list(checked)


# What makes a column unusable: the base row, the column, its good value, a bad one, and a word of the sentence.
BAD = [
    (TEXT, "margin", 0.5, None, "missing"),
    (TEXT, "margin", 1, math.nan, "nan"),
    (TEXT, "margin", 0.5, math.inf, "inf"),
    (TEXT, "margin", 0.5, "high", "text"),
    (TEXT, "margin", 0.5, True, "bool"),
    (TEXT, "prompt", "a", None, "missing"),
    (TEXT, "chosen", "b", 3, "a whole number"),
    (TEXT, "chat_template_kwargs", {"mood": "m"}, None, "missing"),
    (TEXT, "chat_template_kwargs", {"mood": "m"}, "m", "text"),
    (TEXT, "tools", "[]", "[{", "not JSON"),
    (IDS, "prompt_length", 1, -1, "a negative whole number"),
    (IDS, "prompt_length", 1, 1.0, "a number"),
    (IDS, "prompt_length", 1, None, "missing"),
    (IDS, "prompt_ids", [5], None, "missing"),
    (IDS, "prompt_ids", [5], [], "an empty list"),
    (IDS, "chosen_ids", [5, 6], [5, -6], "something else"),
    (IDS, "chosen_ids", [5, 6], [5, 6.5], "something else"),
    (IDS, "chosen_ids", [5, 6], [5, None], "something else"),
    (IDS, "chosen_ids", [5, 6], [], "an empty list"),
    (IDS, "rejected_ids", [5, 7], [5, 99], "the id 99, but the model knows 0 to 39"),
]


@pytest.mark.parametrize(("row", "column", "good", "bad", "word"), BAD)
@pytest.mark.parametrize("bad_first", [False, True])
def test_every_column_that_is_used_is_checked_in_every_row(row, column, good, bad, word, bad_first):
    """As a stream, whose rows are as they are given: a Dataset makes the types of a column alike itself."""
    rows = [row | {column: good}] * 3
    check_rows(stream(rows), "training", 40)
    rows[0 if bad_first else 2] = row | {column: bad}
    # The first row decides which columns there are: where it has none, the next one is the odd one out.
    number = 1 + (int(bad is None) if bad_first else 2)
    message = rf"Row {number} of the training data set has no usable `{column}`" + ("" if bad_first else f".*{word}")
    with pytest.raises(ValueError, match=message):
        list(check_rows(stream(rows), "training", 40))


def test_a_data_set_is_read_to_its_end():
    rows = [TEXT | {"margin": 0.5}] * 1500
    rows[1400] = TEXT | {"margin": math.nan}
    with pytest.raises(ValueError, match=r"Row 1401 of the evaluation \(a\) data set .* `margin`: it is nan"):
        check_rows(Dataset.from_list(rows), "evaluation (a)")


def test_the_first_few_bad_rows_are_named_and_the_others_counted():
    rows = [TEXT] * 1500
    for place in (3, 7, 1200, 1300, 1400):
        rows[place] = TEXT | {"chosen": None}
    for length, words in (
        (5, "Row 4 of .* has no"),
        (1250, "Rows 4, 8 and 1201 of .* have no"),
        (1500, "Rows 4, 8, 1201 and 2 more of"),
    ):
        with pytest.raises(ValueError, match=words):
            check_rows(Dataset.from_list(rows[:length]), "training")


def test_a_prompt_that_is_longer_than_the_response_is_refused():
    rows = [IDS | {"prompt_length": 1}, IDS | {"prompt_length": 4}]
    with pytest.raises(ValueError, match=r"Row 2 .*`chosen_ids`: it has 3 tokens, but `prompt_length` is 4"):
        check_rows(Dataset.from_list(rows), "training")


def test_messages_need_a_role():
    with pytest.raises(ValueError, match="one of them without `role`"):
        check_rows(Dataset.from_list([{"chosen": [{"content": "a"}], "rejected": [{"content": "b"}]}]), "training")


@pytest.mark.parametrize("row", [TEXT, IDS, {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES}])
def test_rows_may_lack_what_is_optional_and_have_columns_that_are_not_used(row):
    optional = {"margin": None, "prompt_length": None, "tools": None, "score": math.nan, "note": "x"}
    for rows in ([row] * 2, [row | optional] * 2):
        for dataset in (Dataset.from_list(rows), stream(rows)):
            assert len(list(check_rows(dataset, "training"))) == 2


def test_older_names_of_tokens_are_renamed_with_a_warning():
    rows = [{"chosen_input_ids": IDS["chosen_ids"], "rejected_input_ids": IDS["rejected_ids"]}]
    for dataset in (Dataset.from_list(rows), stream(rows)):
        with pytest.warns(FutureWarning, match="`chosen_input_ids` and `rejected_input_ids`, which is deprecated"):
            checked = check_rows(dataset, "training")
        assert list(checked) == [IDS]


def test_a_data_set_that_gives_tensors_is_read_as_lists():
    checked = check_rows(Dataset.from_list([IDS]).with_format("torch"), "training")
    assert not isinstance(checked[0]["chosen_ids"], torch.Tensor)
