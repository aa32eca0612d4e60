"""The page of an inspection: one HTML file that needs nothing else, and its frame for notebooks."""

from __future__ import annotations

import base64
import hashlib
import html

from rgtg_hf.inspection.curves import curves_svg
from rgtg_hf.inspection.generator import GENERATOR
from rgtg_hf.inspection.inspect import Inspection
from rgtg_hf.inspection.markup import LEVELS, asset, escape, reward_scale, signed, tokens_html
from rgtg_hf.inspection.trace import Trace
from rgtg_hf.version import __version__

__all__ = ["SWITCH", "frame", "key_html", "page", "styles", "summary"]


def styles(scope: str = ":root") -> str:
    """The colours, set on `scope`, and the looks of tokens."""
    return asset("palette.css").replace("SCOPE", scope) + asset("tokens.css")


def page(inspection: Inspection) -> str:
    """A complete HTML document. It loads nothing, and its policy lets it load nothing."""
    found = inspection
    scale = reward_scale([found.steered, found.unsteered])
    script = asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawn = "greedy decoding" if found.seed is None else f"sampled with seed {found.seed}"
    settings = f"beta {found.beta:g} · {found.top_k} candidates per step · {drawn}"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'sha256-{digest}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
{GENERATOR}{__version__}">
<title>What the reward did</title>
<style>{styles()}{asset("page.css")}</style>
<body>
<header>
<h1>What the reward did</h1>
<div class="prompt" dir="auto">{escape(found.prompt)}</div>
<p class="quiet">Policy <bdi>{escape(found.policy_name or "unnamed")}</bdi> · reward model \
<bdi>{escape(found.reward_model_name or "unnamed")}</bdi> · {settings}</p>
{key_html(scale)}
{SWITCH}
</header>
<main>
<div class="sides">
{_side("Steered", found.steered, scale)}
{_side("Unsteered", found.unsteered, scale)}
</div>
{_curves(found)}
<p class="quiet">A token's reward is how much it raised what the reward model thinks of the text so far. Point at a \
token, or reach it with Tab and the arrow keys, to see what else was possible: the candidates with their probability \
under the policy, their reward, and their probability when guided. Probabilities are among the candidates.</p>
</main>
<script>{script}</script>
</html>
"""


def frame(inspection: Inspection, height: int = 760) -> str:
    """The page in a frame of its own, for notebooks, whose styles it then neither takes nor changes."""
    return (
        f'<iframe title="What the reward did" sandbox="allow-scripts" srcdoc="{html.escape(page(inspection))}" '
        f'style="width:100%;height:{height}px;border:1px solid #8888;border-radius:4px"></iframe>'
    )


def key_html(scale: float) -> str:
    """What colours and lines mean: the text of each sample says it in words."""
    words = [("down", LEVELS, f"{signed(-scale)} or less"), ("down", 2, "loss")]
    words += [("up", 2, "gain"), ("up", LEVELS, f"{signed(scale)} or more")]
    samples = "".join(f'<span class="rgtg-tok rgtg-{sign}{level}">{text}</span>' for sign, level, text in words)
    return f'<div class="rgtg-key"><span>Reward of a token:</span>{samples}</div>'


SWITCH = '<label class="rgtg-switch"><input type="checkbox" class="rgtg-show-numbers"> show numbers</label>'


def _side(name: str, trace: Trace, scale: float) -> str:
    return f"""<section>
<h2>{name}</h2>
<p class="quiet">{summary(trace)}</p>
{tokens_html(trace, scale, f"{name} response, token by token")}
</section>"""


def summary(trace: Trace) -> str:
    """Reward, divergence, length and speed in one line."""
    reward = trace.rewards[-1] if trace.steps else 0.0
    divergence = trace.divergences[-1] if trace.steps else 0.0
    return (
        f"reward {signed(reward)} · KL {divergence:.2f} nats · {len(trace.steps)} tokens · "
        f"{trace.tokens_per_second:.1f} tokens/s"
    )


def _curves(found: Inspection) -> str:
    rewards = [("steered", found.steered.rewards), ("unsteered", found.unsteered.rewards)]
    ends = ", ".join(f"{name} {signed(values[-1] if values else 0.0)}" for name, values in rewards)
    divergence = found.steered.divergences
    total = divergence[-1] if divergence else 0.0
    reward_curves = curves_svg("Cumulative reward", f"At the end: {ends}.", rewards)
    kl_curve = curves_svg("Cumulative KL", f"At the end: {total:.2f} nats.", [("steered", divergence)])
    return f"""<div class="curves">
<figure><figcaption><strong>Cumulative reward</strong>: steered (solid line), unsteered (dashed)</figcaption>
{reward_curves}</figure>
<figure><figcaption><strong>Cumulative KL</strong> of steered from the policy, nats</figcaption>
{kl_curve}</figure>
</div>"""
