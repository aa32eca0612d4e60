"""Gold rewards: what steering is judged by, and what its reward models never see at evaluation."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["flesch_reading_ease", "vader_sentiment"]


def vader_sentiment(texts: Sequence[str]) -> list[float]:
    """Sentiment of texts by VADER's compound score (Hutto and Gilbert, 2014), a lexicon with rules.

    It runs offline and is the same on every machine. It rewards cheerful words and nothing else, so it says how well
    a policy was steered, not how good its text is.

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
    """How easily texts are read, by Flesch's formula (1948): short sentences of short words score high.

        206.835 - 1.015 * words / sentences - 84.6 * syllables / words

    Words and sentences are counted by textstat, syllables by Pyphen's hyphenation, which is textstat's way for words
    that its pronouncing dictionary lacks; that dictionary would have to be downloaded, this runs offline. Like all
    readability formulas it says nothing of sense.

    Args:
        texts: Responses in English. A text without a word scores 0.

    Returns:
        One score per text, from 0 to 121.2: about 30 for a scientific article, 60 for plain prose, 90 for a children's
        book. What the formula rates below 0 scores 0: a single word of a hundred letters, which a language model may
        well write, would be rated -7,000 and outweigh all other texts in a mean.

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
