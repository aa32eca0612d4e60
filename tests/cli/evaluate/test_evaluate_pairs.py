import json

import pytest

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.evaluate.evaluate_pairs import read_pairs
from rgtg_hf.rewards.pairs import pair_ids
from tests.cli.conftest import byte_tokenizer


def write(tmp_path, *rows):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize("template", [True, False])
def test_pairs_are_read_as_training_reads_them(tmp_path, template):
    tokenizer = byte_tokenizer() if template else byte_tokenizer(None)
    rows = [{"prompt": "Hi ", "chosen": "good", "rejected": "bad"}, {"chosen": "Hi good", "rejected": "Hi bad"}]
    pairs = read_pairs(write(tmp_path, *rows), tokenizer)
    assert pairs == [pair_ids(row, tokenizer) for row in rows]
    assert tokenizer.decode(pairs[0]["chosen_ids"]) == "Hi good" + tokenizer.eos_token


def test_pairs_that_cannot_be_compared_are_left_out(tmp_path):
    rows = [{"prompt": "Hi ", "chosen": "good", "rejected": text} for text in ("bad", "good")]
    assert len(read_pairs(write(tmp_path, *rows), byte_tokenizer())) == 1


def test_rows_that_are_no_pairs_are_refused(tmp_path):
    with pytest.raises(UserError, match="rejected"):
        read_pairs(write(tmp_path, {"prompt": "Hi", "chosen": "good"}), byte_tokenizer())
