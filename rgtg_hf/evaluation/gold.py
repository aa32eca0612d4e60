"""The demo's gold reward: what steering is judged by, and what its reward model never sees at evaluation."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["vader_sentiment"]


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
