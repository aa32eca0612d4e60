"""Gold rewards, which judge responses. Reward models never see them at evaluation."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["flesch_reading_ease", "vader_sentiment"]


def vader_sentiment(texts: Sequence[str]) -> list[float]:
    """The sentiment of texts: VADER's compound score, from a lexicon and rules (Hutto and Gilbert, 2014).

    It runs offline and gives the same values on every machine. It rewards only cheerful words, so it measures how well
    a policy was steered and not how good its text is.

    Args:
        texts: Responses in English. An empty text scores 0.

    Returns:
        One score per text, from -1 (negative) to 1 (positive).

    Raises:
        ImportError: If `vaderSentiment` is not installed; it comes with `pip install "rgtg-hf[demo]"`.

    Example:
        ```python
        from rgtg_hf.evaluation.gold import vader_sentiment

        good, bad = vader_sentiment(["A wonderful day!", "A terrible day!"])
        assert good > 0 > bad
        ```
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise ImportError('VADER is missing. Install it with: pip install "rgtg-hf[demo]"') from error
    analyzer = SentimentIntensityAnalyzer()
    return [analyzer.polarity_scores(text)["compound"] for text in texts]


def flesch_reading_ease(texts: Sequence[str]) -> list[float]:
    """The reading ease of texts by Flesch's formula (1948). Short sentences of short words score high.

        206.835 - 1.015 * words / sentences - 84.6 * syllables / words

    textstat counts words and sentences, and Pyphen's hyphenation counts syllables. textstat itself uses Pyphen only
    for words that are missing from a pronouncing dictionary, which must be downloaded. This function runs offline.
    Like all readability formulas, it does not measure whether a text makes sense.

    Args:
        texts: Responses in English. A text without a word scores 0.

    Returns:
        One score per text, from 0 to 121.2: about 30 for a scientific article, 60 for plain prose, 90 for a children's
        book. Values below 0 are set to 0. Otherwise a word of a hundred letters, which a language model can write,
        would score -7,000 and outweigh all other texts in a mean.

    Raises:
        ImportError: If `textstat` is not installed; it comes with `pip install "rgtg-hf[evaluate]"`.

    Example:
        ```python
        from rgtg_hf.evaluation.gold import flesch_reading_ease

        plain, stilted = flesch_reading_ease(["The cat sat. It was glad.", "Feline contentment necessitates repose."])
        assert plain > 90 > stilted
        ```
    """
    try:
        import pyphen
        import textstat
    except ImportError as error:
        raise ImportError('textstat is missing. Install it with: pip install "rgtg-hf[evaluate]"') from error
    hyphenation = pyphen.Pyphen(lang="en_US")
    scores = []
    for text in texts:
        words = textstat.remove_punctuation(text).split()
        syllables = sum(len(hyphenation.positions(word)) + 1 for word in words)
        sentences = textstat.sentence_count(text)
        score = 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words) if words else 0.0
        scores.append(max(score, 0.0))
    return scores
