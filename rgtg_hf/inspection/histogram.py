"""How likely each return is, as inline SVG. The page's style sheet sets the colours."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["histogram_svg"]

_WIDTH, _HEIGHT, _BASE = 300, 64, 48  # the bars stand on the line at _BASE


def histogram_svg(probabilities: Sequence[float], low: float, high: float) -> str:
    """Draws the distribution of the return, with the mean return in words.

    Args:
        probabilities: One for each bin, from the lowest return to the highest.
        low: The return of the first bin.
        high: The return of the last bin.

    Returns:
        An `svg` element.

    Example:
        ```python
        from rgtg_hf.inspection.histogram import histogram_svg

        assert "mean return 0.50" in histogram_svg([0.5, 0.5], 0.0, 1.0)
        ```
    """
    last = len(probabilities) - 1
    mean = sum(p * (low + (high - low) * place / last) for place, p in enumerate(probabilities))
    tallest, step = max(probabilities), _WIDTH / len(probabilities)
    gap = min(1.0, 0.2 * step)
    bars = "".join(
        f'<rect x="{place * step + gap / 2:.2f}" y="{_BASE - height:.1f}" width="{step - gap:.2f}" '
        f'height="{height:.1f}"/>'
        for place, height in enumerate(_BASE * p / tallest for p in probabilities)
    )
    words = f"mean return {_number(f'{mean:.2f}')}"
    labels = ((0, "start", f"{low:.3g}"), (_WIDTH / 2, "middle", words), (_WIDTH, "end", f"{high:.3g}"))
    texts = "".join(
        f'<text x="{x:g}" y="{_HEIGHT - 3}" text-anchor="{anchor}">{_number(text)}</text>'
        for x, anchor, text in labels
    )
    return (
        f'<svg class="rgtg-returns" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"><title>How likely each return is; '
        f'{words}</title>{bars}<path d="M0 {_BASE}H{_WIDTH}"/>{texts}</svg>'
    )


def _number(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
