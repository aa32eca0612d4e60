"""The page of an inspection: one HTML file that loads nothing, and its frame for notebooks.

Nothing heavy is imported here, so that the command line can recognise a page before it loads any library.
"""

from __future__ import annotations

import base64
import hashlib
import html
from typing import TYPE_CHECKING, Any

from rgtg_hf.inspection.curves import curves_svg
from rgtg_hf.inspection.markup import LEVELS, asset, escape, reward_scale, signed, tokens_html
from rgtg_hf.version import __version__

if TYPE_CHECKING:
    from rgtg_hf.config import RewardGuidanceConfig
    from rgtg_hf.inspection.trace import Trace

__all__ = ["GENERATOR", "SWITCH", "frame", "key_html", "page", "reward_curves", "styles", "summary"]

GENERATOR = '<meta name="generator" content="rgtg_hf '  # marks a page as made here
SWITCH = '<label class="rgtg-switch"><input type="checkbox" class="rgtg-show-numbers"> show numbers</label>'


def styles(scope: str = ":root") -> str:
    """The style sheet of tokens and curves, with its colours defined on `scope`."""
    return asset("palette.css").replace("SCOPE", scope) + asset("tokens.css")


def page(
    *,
    prompt: str,
    policy_name: str,
    reward_model_name: str,
    guidance_config: RewardGuidanceConfig,
    seed: int | None,
    guided: Trace,
    unguided: Trace,
) -> str:
    """A complete HTML document. It loads nothing, and its security policy forbids it to load anything.

    The arguments are the attributes of [`Inspection`][rgtg_hf.inspection.inspect.Inspection].
    """
    scale = reward_scale([guided, unguided])
    script = asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawn = "greedy decoding" if seed is None else f"sampled with seed {seed}"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'sha256-{digest}'">
<meta name="viewport" content="width=device-width, initial-scale=1">
{GENERATOR}{__version__}">
<title>Rewards token by token</title>
<style>{styles()}{asset("page.css")}</style>
<body>
<header>
<h1>Rewards token by token</h1>
<div class="prompt" dir="auto">{escape(prompt)}</div>
<p class="quiet">Policy <bdi>{escape(policy_name or "unnamed")}</bdi> · reward model \
<bdi>{escape(reward_model_name or "unnamed")}</bdi> · {_settings(guidance_config)} · {drawn}</p>
{key_html(scale)}
{SWITCH}
</header>
<main>
<div class="sides">
{_side("Guided", guided, scale)}
{_side("Unguided", unguided, scale)}
</div>
{_curves(guided, unguided)}
<p class="quiet">The reward of a token is its increment: the reward of the text with the token minus that of the \
text before it. Point at a token, or reach it with Tab and the arrow keys, to see the other candidates: their \
probability under the policy, their reward, and their probability under guidance. Probabilities are among the \
candidates.</p>
</main>
<script>{script}</script>
</html>
"""


def frame(document: str, height: int = 760) -> str:
    """A page in an `iframe`, for notebooks, so that neither changes the styles of the other."""
    return (
        f'<iframe title="Rewards token by token" sandbox="allow-scripts" srcdoc="{html.escape(document)}" '
        f'style="width:100%;height:{height}px;border:1px solid #8888;border-radius:4px"></iframe>'
    )


def key_html(scale: float) -> str:
    """The key of the colours. The text of each sample gives its meaning in words."""
    words = [("down", LEVELS, f"{signed(-scale)} or less"), ("down", 2, "loss")]
    words += [("up", 2, "gain"), ("up", LEVELS, f"{signed(scale)} or more")]
    samples = "".join(f'<span class="rgtg-tok rgtg-{sign}{level}">{text}</span>' for sign, level, text in words)
    return f'<div class="rgtg-key"><span>Reward of a token:</span>{samples}</div>'


def _settings(config: RewardGuidanceConfig) -> str:
    """The settings that made a difference, in a line: of the search, if there was one, and of guidance."""
    beta: Any = config.beta  # all settings are set
    words = []
    if config.search != "tokens":
        words += [f"search {config.search}", f"{config.num_rows} rows"]
        if config.search != "none":
            words.append(f"blocks of {config.block_size} tokens")
    # Of the others, a negative beta prefers low rewards.
    if config.search in ("tokens", "resample") or config.search_return == "draw" or beta <= 0:
        words.append(f"beta {beta:g}")
    return " · ".join([*words, f"{config.top_k or 'all'} candidates per step"])


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
    bound = trace.divergence_bound
    return (
        f"reward {signed(reward)} · KL {f'{divergence:.2f}' if bound is None else f'at most {bound:.2f}'} nats · "
        f"{len(trace.steps)} tokens · {trace.tokens_per_second:.1f} tokens/s"
    )


def reward_curves(guided: Trace, unguided: Trace) -> str:
    """The curves of both rewards, as a `figure`."""
    rewards = [("guided", guided.rewards), ("unguided", unguided.rewards)]
    ends = ", ".join(f"{name} {signed(values[-1] if values else 0.0)}" for name, values in rewards)
    curves = curves_svg("Cumulative reward", f"At the end: {ends}.", rewards)
    return f"""<figure class="rgtg-figure">
<figcaption><strong>Cumulative reward</strong>: guided (solid line), unguided (dashed)</figcaption>
{curves}</figure>"""


def _curves(guided: Trace, unguided: Trace) -> str:
    if guided.divergence_bound is not None:
        return f'<div class="curves">{reward_curves(guided, unguided)}</div>'
    divergence = guided.divergences
    total = divergence[-1] if divergence else 0.0
    kl_curve = curves_svg("Cumulative KL", f"At the end: {total:.2f} nats.", [("guided", divergence)])
    return f"""<div class="curves">
{reward_curves(guided, unguided)}
<figure class="rgtg-figure"><figcaption><strong>Cumulative KL</strong> of guided to the policy, nats</figcaption>
{kl_curve}</figure>
</div>"""
