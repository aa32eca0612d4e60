"""Curves over the tokens of a response, as inline SVG. The page's style sheet sets the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["curves_svg"]

_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 10, 32


def curves_svg(title: str, description: str, curves: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Draws curves that start at 0 before the first token. Nothing is escaped, so all text must be trusted markup.

    Args:
        title: Title of the picture.
        description: The content in words, for screen readers.
        curves: The name of each curve, which is also its CSS class, and its values after each token.

    Returns:
        An `svg` element.
    """
    lines = [(name, [0.0, *(v if math.isfinite(v) else 0.0 for v in values)]) for name, values in curves]
    steps = max(1, *(len(values) - 1 for _, values in lines))
    ticks = _ticks(min(min(values) for _, values in lines), max(max(values) for _, values in lines))
    low, high = ticks[0], ticks[-1]

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / steps

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)

    parts = [f"<title>{title}</title><desc>{description}</desc>"]
    for tick in ticks:
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{_LEFT} {y(tick):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for step in sorted({0, steps // 2, steps}):
        parts.append(f'<text x="{x(step):.1f}" y="{_HEIGHT - 16}" text-anchor="middle">{step}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 2}" text-anchor="middle">tokens</text>')
    for name, values in lines:
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in enumerate(values))
        parts.append(f'<polyline class="line {name}" points="{points}"/>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that cover the values and include 0, seven at most."""
    low, high = min(low, 0.0), max(high, 0.0)
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 5)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return [i * step for i in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:.10g}".replace("-", "\N{MINUS SIGN}")
