import math

import pytest

from rgtg_hf.evaluation.text_metrics import distinct_n, perplexity, repetition, self_bleu


def test_distinct_counts_ngrams_over_all_texts_together():
    assert distinct_n(["a b", "A c"], 1) == 3 / 4
    assert distinct_n(["a b", "a c"], 2) == 1.0
    assert distinct_n(["a", ""], 2) == 0.0


def test_repetition_is_within_a_text_only():
    assert repetition(["a b c d e", "a b c d e"]) == 0.0
    assert repetition(["x y x y x y"], n=2) == 1 - 2 / 5
    assert repetition(["", "a a a"], n=1) == pytest.approx((0 + 2 / 3) / 2)
    with pytest.raises(ValueError, match="at least one"):
        repetition([])


def test_self_bleu_is_full_for_equal_texts_and_small_for_unlike_ones():
    text = "the cat sat on the mat today"
    assert self_bleu([text, text, text]) == pytest.approx(100.0)
    assert self_bleu([text, "quite other words are written here now"]) < 15
    assert self_bleu([text, ""]) < 1e-6
    with pytest.raises(ValueError, match="at least two"):
        self_bleu([text])


def test_perplexity_is_per_token_of_all_responses():
    assert perplexity([3 * math.log(0.5), math.log(0.5)], [3, 1]) == pytest.approx(2.0)
    assert perplexity([0.0], [0]) == math.inf
