"""A trace as HTML: every token with its reward and its candidates.

All text from a model or a user passes through [`escape`][rgtg_hf.inspection.markup.escape] before it enters a page.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable
from importlib.resources import files
from typing import TYPE_CHECKING

from rgtg_hf.inspection.histogram import histogram_svg

if TYPE_CHECKING:  # page.py must not load torch
    from rgtg_hf.inspection.trace import Candidate, Step, Trace

__all__ = ["LEVELS", "asset", "escape", "reward_scale", "signed", "tokens_html"]

LEVELS = 4
_DIRECTION_CONTROLS = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C}


def asset(name: str) -> str:
    """A text file of this folder: `palette.css`, `tokens.css`, `page.css` or `page.js`."""
    return files("rgtg_hf.inspection").joinpath(name).read_text("utf-8")


def escape(text: str) -> str:
    """Makes text safe in HTML elements and quoted attributes. Invisible control characters become visible.

    Example:
        ```python
        from rgtg_hf.inspection.markup import escape

        assert escape('<b onclick="x">') == "&lt;b onclick=&quot;x&quot;&gt;"
        ```
    """
    return html.escape("".join(map(_visible, text)))


def signed(value: float) -> str:
    """A reward with its sign and two decimals. The minus is the typographic one."""
    if not math.isfinite(value):
        return "?"
    text = f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
    return "0.00" if text[1:] == "0.00" else text


def reward_scale(traces: Iterable[Trace]) -> float:
    """The increment of the strongest colour: the 90th percentile of all absolute increments, or 1 if that is 0."""
    sizes = sorted(abs(step.reward) for trace in traces for step in trace.steps if math.isfinite(step.reward))
    return (sizes[int(0.9 * (len(sizes) - 1))] if sizes else 0.0) or 1.0


def tokens_html(trace: Trace, scale: float, label: str, *, candidates: bool = True) -> str:
    """The text of a trace, one element per token. Its candidates appear when it is hovered or focused.

    Args:
        trace: The trace to show.
        scale: The increment of the strongest colour.
        label: A name of this text for screen readers.
        candidates: Whether to include the candidates.

    Returns:
        HTML for the style sheet `tokens.css`. It is readable without styles too.
    """
    tokens = "".join(_token(step, scale, candidates, trace.return_range) for step in trace.steps)
    return f'<div class="rgtg-text" role="listbox" aria-label="{escape(label)}">{tokens}</div>'


def _token(step: Step, scale: float, candidates: bool, return_range: tuple[float, float] | None) -> str:
    # A line break is shown as a sign inside the token, which can be pointed at. The break itself follows the token.
    text = step.text or "\N{DOTTED CIRCLE}"
    # Spaces before a word are outside the token, because at the end of a line they would look like another token.
    core = text.lstrip(" ") or text
    body = escape(core).replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
    breaks = "<br>" * text.count("\n")
    kinds = ["rgtg-tok", _level(step.reward, scale)] + ["rgtg-special"] * (step.special or not step.text)
    plain, reward = escape(_plain(text)), signed(step.reward)
    space = " " * (len(text) - len(core))
    return (
        f'{space}<span class="{" ".join(kinds)}" role="option" tabindex="0" aria-label="{plain}, reward {reward}">'
        f'<bdi>{body}</bdi><span class="rgtg-num" aria-hidden="true">{reward}</span>'
        f"{_candidates(step, plain, reward, return_range) if candidates else ''}</span>{breaks}"
    )


def _candidates(step: Step, plain: str, reward: str, return_range: tuple[float, float] | None) -> str:
    rows = "".join(map(_candidate, step.candidates))
    histogram = histogram_svg(step.returns, *return_range) if return_range is not None and step.returns else ""
    return (
        f'<span class="rgtg-pop"><span class="rgtg-head"><bdi>{plain}</bdi> · reward {reward} · '
        f"KL {step.kl:.2f} nats</span><table><thead><tr><th scope=col>candidate<th scope=col>policy"
        f"<th scope=col>reward<th scope=col>guided</thead><tbody>{rows}</tbody></table>{histogram}</span>"
    )


def _candidate(candidate: Candidate) -> str:
    chosen = ' class="rgtg-chosen"' if candidate.chosen else ""
    mark = "\N{BLACK RIGHT-POINTING SMALL TRIANGLE} " if candidate.chosen else ""
    return (
        f"<tr{chosen}><th scope=row>{mark}<bdi>{escape(_plain(candidate.text))}</bdi>"
        f"<td>{candidate.policy:.1%}<td>{signed(candidate.reward)}<td>{candidate.guided:.1%}"
    )


def _level(reward: float, scale: float) -> str:
    if not math.isfinite(reward):
        return "rgtg-0"
    level = min(LEVELS, round(LEVELS * abs(reward) / scale))
    return f"rgtg-{'up' if reward > 0 else 'down'}{level}" if level else "rgtg-0"


def _plain(text: str) -> str:
    """A token on one line, with visible line breaks and visible spaces at its ends."""
    text = text.replace("\n", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}")
    core = text.strip(" ")
    start = len(text) - len(text.lstrip(" "))
    end = len(text) - start - len(core)
    return "\N{OPEN BOX}" * start + core + "\N{OPEN BOX}" * end


def _visible(character: str) -> str:
    code = ord(character)
    if character == "\n":
        return character
    if character == "\t":
        return "\N{RIGHTWARDS ARROW TO BAR}"
    if code < 0x20:
        return chr(0x2400 + code)  # control pictures
    if code in _DIRECTION_CONTROLS or unicodedata.category(character) == "Cc":
        return f"[U+{code:04X}]"
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character) == "Cs" else character
