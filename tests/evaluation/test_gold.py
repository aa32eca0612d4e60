import pytest

from rgtg_hf.evaluation.gold import vader_sentiment


def test_cheerful_texts_score_higher_than_gloomy_ones():
    pytest.importorskip("vaderSentiment")
    good, empty, bad = vader_sentiment(["I love this lovely day.", "", "I hate this awful day."])
    assert good > empty == 0 > bad
