"""Draws the pictures of the start page: a text before and after steering, and one step of it.

    python docs/make_pictures.py outputs/demo/reward_model

Both come from `rgtg_hf.inspect` with the settings of the README. The step is the one with the largest divergence.
"""

from __future__ import annotations

import argparse
from html import escape
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

import rgtg_hf
from rgtg_hf.cli.demo.demo_policy import demo_policy_path
from rgtg_hf.inspection.trace import Step, Trace
from rgtg_hf.rewards.load import load_model, load_reward_model, load_tokenizer

ASSETS = Path(__file__).parent / "assets"
PROMPT, BETA, TOP_K, TOKENS, SEED = "Describe an empty theatre after the show.", 2.0, 10, 48, 0
CHARACTER, LINE, LETTERS = 7.85, 24, 58  # width and height in pixels, characters of a line
MORE, LESS = "#009e73", "#d55e00"
SHOWN = 6  # candidates of a step


def before_and_after(found: Any) -> str:
    """The two responses, each token on the colour of the reward that it added."""
    traces = {"without steering": found.unguided, "steered": found.guided}
    largest = max(abs(step.reward) for trace in traces.values() for step in trace.steps)
    parts, y = [], 0
    for name, trace in traces.items():
        y += 26
        parts.append(_text(0, y, f"{name}: reward {trace.rewards[-1]:+.1f}", "head"))
        for line in _lines(trace):
            y += LINE
            x = 0.0
            for step, text in line:
                width = len(text) * CHARACTER
                strength = min(1.0, abs(step.reward) / largest) * 0.75
                parts += [_bar(x, y + 2, width, 21, step.reward, strength), _text(x, y, text, "token")]
                x += width
        y += 14
    return _picture("before-and-after", LETTERS * CHARACTER, y, f"{PROMPT} Unguided and steered response.", parts)


def _lines(trace: Trace) -> list[list[tuple[Step, str]]]:
    """The tokens of a response, in lines that break before a word."""
    words: list[list[tuple[Step, str]]] = []
    for step in trace.steps:
        text = step.text.replace("\n", " ")
        if not words or text.startswith(" "):
            words.append([])
        words[-1].append((step, text))
    lines: list[list[tuple[Step, str]]] = [[]]
    for word in words:
        if sum(len(text) for _, text in [*lines[-1], *word]) > LETTERS:
            lines.append([])
            word[0] = (word[0][0], word[0][1].lstrip())
        lines[-1].extend(word)
    return lines


def guided_step(found: Any) -> str:
    """The candidates of a step: under the policy, their rewards, and both together."""
    place = max(range(len(found.guided.steps)), key=lambda place: found.guided.steps[place].kl)
    candidates = found.guided.steps[place].candidates[:SHOWN]
    before = "".join(step.text for step in found.guided.steps[:place]).replace("\n", " ").strip()
    heads = ((96, "1. the policy"), (236, "2. the reward"), (374, "3. steered"))
    parts = [_text(0, 18, f"{before[-46:]} ▁", "token"), *(_text(x, 48, head, "head") for x, head in heads)]
    for row, one in enumerate(candidates):
        y = 74 + row * 26
        parts.append(_text(88, y, one.text.strip() or "␣", "token end"))
        for x, share in ((96, one.policy), (374, one.guided)):
            width = max(1.0, share * 80)
            parts += [_bar(x, y, width), _text(x + width + 4, y, f"{share:.0%}", "small")]
        added = BETA * one.reward
        width = min(60.0, abs(added) * 16)
        left, side, kind = (290.0, -4, "small end") if added > 0 else (290 - width, 4, "small")
        parts += [_bar(left, y, width, reward=added), _text(290 + side, y, f"{added:+.1f}", kind)]
    label = "A guided step: the policy's candidates, what the reward model adds, and both together."
    return _picture("guided-step", 480, 74 + len(candidates) * 26, label, parts)


def _bar(x: float, y: int, width: float, height: int = 17, reward: float = 0.0, strength: float = 0.6) -> str:
    """A bar behind a line of text: grey, or in the colour of a reward."""
    colour = f'fill="{MORE if reward > 0 else LESS}" fill-opacity="{strength:.2f}"' if reward else 'class="bar"'
    return f'<rect x="{x:.1f}" y="{y - height + 4}" width="{width:.1f}" height="{height}" rx="3" {colour}/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}" xml:space="preserve">{escape(text)}</text>'


def _picture(name: str, width: float, height: float, label: str, parts: list[str]) -> str:
    # Where the picture stands alone, as in the README, it follows the colours of the system.
    style = (
        f"#{name}{{color:#1f2933}}@media(prefers-color-scheme:dark){{#{name}{{color:#e6edf3}}}}"
        f"#{name} text{{font:13px ui-monospace,Menlo,Consolas,monospace;fill:currentColor}}"
        f"#{name} .head{{font:600 13px system-ui,sans-serif}}#{name} .small{{font:11px system-ui,sans-serif}}"
        f"#{name} .end{{text-anchor:end}}#{name} .bar{{fill:currentColor;fill-opacity:.45}}"
    )
    return (
        f'<svg id="{name}" role="img" aria-label="{escape(label)}" viewBox="0 0 {width:.0f} {height}" '
        f'xmlns="http://www.w3.org/2000/svg"><style>{style}</style>\n{chr(10).join(parts)}\n</svg>\n'
    )


def main() -> None:
    """Draws both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reward_model", help="the demo's reward model")
    name = parser.parse_args().reward_model
    policy_name = demo_policy_path()
    policy = load_model(AutoModelForCausalLM, policy_name, dtype="float32")
    tokenizer, reward_model = load_tokenizer(policy_name), load_reward_model(name, dtype="float32")
    settings = {"beta": BETA, "top_k": TOP_K, "max_new_tokens": TOKENS, "seed": SEED}
    found = rgtg_hf.inspect(policy, tokenizer, reward_model, PROMPT, **settings)
    print(found)
    (ASSETS / "before_and_after.svg").write_text(before_and_after(found), encoding="utf-8")
    (ASSETS / "guided_step.svg").write_text(guided_step(found), encoding="utf-8")


if __name__ == "__main__":
    main()
