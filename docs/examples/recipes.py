"""Rewards to steer by: functions of prompts and responses that return a number for each response.

Saved in the current folder as recipes.py, they are named as `recipes:shorter` and so on.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return re.findall(r"[a-z']+", text.lower())


SEA = {
    *words("anchor beach boat boats captain coast deck fish gull gulls harbour island lighthouse ocean sail sailor"),
    *words("sailors salt sand sea ship ships shore storm swim tide tides wave waves"),
}


def shorter(prompts: list[str], responses: list[str]) -> list[float]:
    """Shorter sentences: 0 at ten words a sentence, and less by 1 for every ten more."""
    lengths = [[len(words(part)) for part in re.split(r"[.!?]+", text) if words(part)] or [0] for text in responses]
    return [1.0 - sum(one) / len(one) / 10 for one in lengths]


def simpler(prompts: list[str], responses: list[str]) -> list[float]:
    """Simpler language: minus the share of words of more than seven letters."""
    return [-sum(len(word) > 7 for word in words(text)) / max(1, len(words(text))) for text in responses]


def calmer(prompts: list[str], responses: list[str]) -> list[float]:
    """Less that is hostile or sad: minus the negative share by VADER's lexicon (`pip install vaderSentiment`)."""
    return [-_vader().polarity_scores(text)["neg"] for text in responses]


def personal(prompts: list[str], responses: list[str]) -> list[float]:
    """A style that speaks to the reader: the share of "you", "your", "yours" and "yourself"."""
    found = [sum(word in ("you", "your", "yours", "yourself") for word in words(text)) for text in responses]
    return [count / max(1, len(words(text))) for count, text in zip(found, responses, strict=True)]


def about_the_sea(prompts: list[str], responses: list[str]) -> list[float]:
    """On topic: how many different words of the sea there are, up to five."""
    return [min(5, len(SEA.intersection(words(text)))) / 5 for text in responses]


@cache
def _vader() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
