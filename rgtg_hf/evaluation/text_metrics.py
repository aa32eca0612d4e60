"""Measures the diversity, repetition and perplexity of texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["distinct_n", "perplexity", "repetition", "self_bleu"]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """The share of different n-grams among all n-grams of words in the texts (Li et al., arXiv:1510.03055).

    It falls with the amount of text, so compare only sets of about the same size.

    Args:
        texts: Responses.
        n: Words per n-gram.

    Returns:
        A share from 0 to 1; 0 if no text has n words.

    Example:
        ```python
        from rgtg_hf.evaluation.text_metrics import distinct_n

        assert distinct_n(["a b a b"], n=2) == 2 / 3
        ```
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Sequence[str], n: int = 4) -> float:
    """The share of n-grams that repeat an earlier one in the same text, as a mean (Welleck et al., arXiv:1908.04319).

    Args:
        texts: Responses. A text of fewer than n words counts as 0.
        n: Words per n-gram.

    Returns:
        A share from 0 (no repetition) to almost 1 (one n-gram throughout).

    Raises:
        ValueError: If there are no texts.
    """
    if not texts:
        raise ValueError("No texts were given: a mean needs at least one.")
    shares = []
    for text in texts:
        grams = _grams(text, n)
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return sum(shares) / len(shares)


def self_bleu(texts: Sequence[str]) -> float:
    """The mean BLEU of each text with the other texts as references (arXiv:1802.01886).

    Args:
        texts: At least two responses. An empty one counts as 0.

    Returns:
        A value from 0 (nothing in common) to 100 (all the same), computed by sacrebleu.

    Raises:
        ImportError: If `sacrebleu` is not installed; it comes with `pip install "rgtg-hf[evaluate]"`.
        ValueError: If there are fewer than two texts.
    """
    if len(texts) < 2:
        raise ValueError(f"self-BLEU compares texts with each other, but got {len(texts)}: give at least two.")
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise ImportError('sacrebleu is missing. Install it with: pip install "rgtg-hf[evaluate]"') from error
    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(text, [*texts[:place], *texts[place + 1 :]]).score if text.strip() else 0.0
        for place, text in enumerate(texts)
    ]
    return sum(scores) / len(scores)


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def perplexity(log_likelihoods: Sequence[float], tokens: Sequence[int]) -> float:
    """Perplexity per token over all responses together: exp(-sum of log-likelihoods / number of tokens).

    Args:
        log_likelihoods: log pi_LM(y | x) of each response under the unguided policy, in nats.
        tokens: Number of tokens of each response.

    Returns:
        1 or more: 1 for text of probability 1, infinity if there are no tokens.

    Example:
        ```python
        import math
        from rgtg_hf.evaluation.text_metrics import perplexity

        assert round(perplexity([2 * math.log(0.5)], [2]), 9) == 2.0
        ```
    """
    total = sum(tokens)
    return math.exp(-math.fsum(log_likelihoods) / total) if total else math.inf
