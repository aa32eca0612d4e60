import pytest

from rgtg_hf.evaluation.gold import flesch_reading_ease, vader_sentiment


def test_cheerful_texts_score_higher_than_gloomy_ones():
    pytest.importorskip("vaderSentiment")
    good, empty, bad = vader_sentiment(["I love this lovely day.", "", "I hate this awful day."])
    assert good > empty == 0 > bad


def test_short_sentences_of_short_words_are_easiest_to_read():
    easy, long_sentence, long_words = flesch_reading_ease(
        [
            "The dog ran home. It was glad. The sun was out.",
            "The dog ran home and it was glad and the sun was out and all was well and so it went to bed to sleep.",
            "Canine repatriation occasions considerable contentment. Illumination predominated.",
        ]
    )
    assert easy > long_sentence > long_words


def test_reading_ease_is_fleschs_formula():
    # Eight words of nine syllables in two sentences.
    assert flesch_reading_ease(["The dog ran home. It was so happy."])[0] == pytest.approx(
        206.835 - 1.015 * 8 / 2 - 84.6 * 9 / 8
    )


def test_a_text_without_words_is_no_easy_reading():
    assert flesch_reading_ease(["", " ... !"]) == [0.0, 0.0]


def test_one_endless_word_does_not_outweigh_all_other_texts():
    assert flesch_reading_ease(["H" + 90 * "i", "The dog ran home."])[0] == 0.0
