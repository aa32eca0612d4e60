from difflib import SequenceMatcher

from rgtg_hf.cli.demo.demo_rows import evaluation_prompts, preference_pairs, tokenize_pair
from tests.cli.conftest import byte_tokenizer


def test_no_pair_comes_from_an_evaluation_prompt():
    trained = {row["prompt"][0]["content"] for row in preference_pairs()}
    held_out = evaluation_prompts()
    assert len(held_out) >= 40
    assert len(trained) > 200
    for prompt in held_out:
        closest = max(SequenceMatcher(None, prompt.lower(), other.lower()).ratio() for other in trained)
        assert closest < 0.75, prompt


def test_pairs_differ_clearly_and_have_both_responses():
    rows = preference_pairs()
    assert 700 <= len(rows) <= 1200
    assert all(row["chosen_gold"] - row["rejected_gold"] >= 0.3 for row in rows)


def test_only_responses_that_ended_by_themselves_get_an_end_token():
    tokenizer = byte_tokenizer()
    row = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "Yes."}],
        "rejected": [{"role": "assistant", "content": "No, bec"}],
        "chosen_finished": True,
        "rejected_finished": False,
    }
    ids = tokenize_pair(row, tokenizer)
    assert tokenizer.decode(ids["chosen_ids"]) == "<start>user:Hi<end><start>assistant:Yes.<end>"
    assert tokenizer.decode(ids["rejected_ids"]) == "<start>user:Hi<end><start>assistant:No, bec"
    assert tokenizer.decode(ids["chosen_ids"][: ids["prompt_length"]]) == "<start>user:Hi<end><start>assistant:"


def test_end_token_is_part_of_no_proper_prefix():
    tokenizer = byte_tokenizer()
    for row in preference_pairs()[:50]:
        ids = tokenize_pair(row, tokenizer)
        for side in ("chosen_ids", "rejected_ids"):
            assert tokenizer.eos_token_id not in ids[side][ids["prompt_length"] : -1]
