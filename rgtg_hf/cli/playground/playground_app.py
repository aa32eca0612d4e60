"""The playground's page and the actions of its buttons.

The page shows an error in one line, without paths of this machine. The log has the whole error.
"""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.model_pair import load_models
from rgtg_hf.cli.playground.request_limit import RequestLimit
from rgtg_hf.inspection.inspect import encode_prompt
from rgtg_hf.inspection.markup import escape, reward_scale, tokens_html
from rgtg_hf.inspection.page import SWITCH, key_html, reward_curves, styles, summary
from rgtg_hf.inspection.side_by_side import stream_side_by_side
from rgtg_hf.inspection.trace import Trace
from rgtg_hf.rewards.source import display_name
from rgtg_hf.rewards.value_model import is_value_model

__all__ = ["Playground"]

logger = logging.getLogger(__name__)

_LONGEST_PROMPT = 4000  # characters
_LONGEST_QUEUE = 20  # waiting requests; one is answered at a time
_LARGEST_REQUEST = 64 * 1024  # bytes
_MOST_ROWS = 16  # unless the settings at the start have more
_SEARCHES = {
    "tokens": "Guide token by token",
    "best": "Search: the best block goes on",
    "resample": "Search: particles",
    "halve": "Search: the lower half stops",
    "none": "Search: best of n",
}
_EXAMPLES = (
    "Describe an empty theatre after the show.",
    "Write a short note to a neighbour about a broken fence.",
    "Tell me about your first day in a new town.",
)
_ABOUT_KL = (
    "KL is how far the guided text is from what the policy would write, in nats. A higher beta buys more reward with "
    "more of it. A reward that costs many nats is often bought with odd text."
)

_LOOKS = """
.gradio-container { color-scheme: light; }
.dark .gradio-container { color-scheme: dark; }
#guided, #unguided, #guided *, #unguided * { overflow: visible; }
#guided .rgtg-text, #unguided .rgtg-text { min-height: 6em; font-size: 1rem; }
#guided h2, #unguided h2 { font-size: 1.05rem; margin: 0; }
.rgtg-pop table, .rgtg-pop tr { border: 0 !important; }
.rgtg-quiet { color: var(--rgtg-quiet); font-size: 0.9rem; }
.rgtg-error { border-inline-start: 4px solid var(--rgtg-down); padding-inline-start: 0.8em; }
"""


class Playground:
    """The playground for the models in the options.

    Args:
        options: `models`, `reward_models`, `guidance`, `beta`, `top_k`, `max_new_tokens`, `dtype`, `device`,
            `trust_remote_code`.

    Raises:
        UserError: If the first policy and the first reward model cannot be loaded together.

    Attributes:
        blocks: The `gradio.Blocks`.
    """

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._running: dict[str, threading.Event] = {}
        self._most_rows = max(_MOST_ROWS, options.guidance.num_rows)
        models = self._read(0, 0)
        self._loaded: tuple[tuple[int, int], Any] | None = ((0, 0), models)
        self._of_values = is_value_model(models[2])
        self.blocks = self._build()

    def launch(self, **settings: Any) -> Any:
        """Serves the page by `gradio.Blocks.launch` with these settings. A Space needs none."""
        plain = gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        )
        looks: dict[str, Any] = {"css": styles(".gradio-container") + _LOOKS, "theme": plain, "footer_links": []}
        limits = {"middleware": [Middleware(RequestLimit, most=_LARGEST_REQUEST)]}
        return self.blocks.launch(**looks | {"show_error": False, "app_kwargs": limits} | settings)

    def _build(self) -> gr.Blocks:
        with gr.Blocks(title="Steering playground", analytics_enabled=False) as blocks:
            gr.Markdown("# Steering playground\nOne prompt, answered with and without a reward model.")
            prompt = gr.Textbox(
                label="Prompt",
                lines=2,
                max_length=_LONGEST_PROMPT,
                placeholder="Ask for something, or choose an example",
                elem_id="prompt",
            )
            gr.Examples([[one] for one in _EXAMPLES], prompt, label="Examples", elem_id="examples")
            with gr.Row():
                start = gr.Button("Generate", variant="primary", min_width=100, elem_id="generate")
                stop = gr.Button("Stop", min_width=100, elem_id="stop")
            status = gr.HTML(_status("Ready."), elem_id="status")
            # The settings come after the result, so that a phone shows the result first.
            with gr.Row():
                with gr.Column(min_width=300):
                    guided = gr.HTML(_column("Guided", Trace(), 1.0), elem_id="guided")
                with gr.Column(min_width=300):
                    unguided = gr.HTML(_column("Unguided", Trace(), 1.0), elem_id="unguided")
            key = gr.HTML(key_html(1.0), elem_id="key")
            gr.HTML(SWITCH)
            curves = gr.HTML(reward_curves(Trace(), Trace()), elem_id="curves")
            gr.HTML(f'<p class="rgtg-quiet">{_ABOUT_KL}</p>')
            chosen = self._settings()
            inputs = [prompt, *chosen.values()]
            outputs = [status, guided, unguided, key, curves]
            settings: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
            gr.on([start.click, prompt.submit], self._generate, inputs, outputs, **settings)
            stop.click(self._stop, None, None, queue=False, **settings)
        return blocks.queue(max_size=_LONGEST_QUEUE)

    def _settings(self) -> dict[str, Any]:
        """The fields of the settings, by the names of `_generate`."""
        options, guidance = self._options, self._options.guidance
        low, most = min(0.0, options.beta), options.max_new_tokens
        # Rewards may have any unit, and beta the inverse of it.
        high = 10.0 if 1 <= options.beta <= 5 or options.beta <= 0 else float(f"{3 * options.beta:.2g}")
        step = min(0.1, high / 100)
        fields: dict[str, Any] = {}
        with gr.Accordion("Settings", elem_id="settings"):
            with gr.Row():
                # The browser gets positions in the lists, never the paths.
                fields["policy"] = gr.Dropdown(_choices(options.models), value=0, label="Policy")
                fields["reward_model"] = gr.Dropdown(
                    _choices(options.reward_models), value=0, label="Reward model", elem_id="reward_model"
                )
            with gr.Row():
                fields["beta"] = gr.Slider(
                    low, high, options.beta, step=step, label="Beta", info="Strength of steering", elem_id="beta"
                )
                fields["value_beta"] = gr.Slider(
                    min(low, guidance.soft_value_beta), max(high, guidance.soft_value_beta), guidance.soft_value_beta,
                    step=step, label="Value beta", info="0: the mean reward to come. Above: its better part",
                    visible=self._of_values, elem_id="value_beta",
                )  # fmt: skip
                fields["top_k"] = gr.Slider(
                    min(1, options.top_k), max(50, options.top_k), options.top_k, step=1, label="Candidates",
                    info="The policy's most likely tokens at each step", elem_id="top_k",
                )  # fmt: skip
                fields["tokens"] = gr.Slider(
                    1, most, most, step=1, label="Tokens", info="Largest number per response", elem_id="tokens"
                )
            with gr.Row():
                fields["sample"] = gr.Checkbox(
                    True, label="Sample", info="Otherwise the most likely candidate is chosen", elem_id="sample"
                )
                fields["seed"] = gr.Number(
                    0, precision=0, minimum=0, maximum=2**32, label="Seed", info="Of both responses", elem_id="seed"
                )
            with gr.Row():
                fields["search"] = gr.Dropdown(
                    [(text, name) for name, text in _SEARCHES.items()], value=guidance.search, label="Method",
                    elem_id="search",
                )  # fmt: skip
                fields["num_rows"] = gr.Slider(
                    1, self._most_rows, guidance.num_rows, step=1, label="Rows", info="Of a search",
                    elem_id="num_rows",
                )  # fmt: skip
                fields["block_size"] = gr.Slider(
                    1, max(64, guidance.block_size), guidance.block_size, step=1, label="Block",
                    info="Tokens between selections", elem_id="block_size",
                )  # fmt: skip
        return fields

    def _generate(
        self,
        prompt: str,
        policy: int,
        reward_model: int,
        beta: float,
        value_beta: float,
        top_k: float,
        tokens: float,
        sample: bool,
        seed: float,
        search: str,
        num_rows: float,
        block_size: float,
        request: gr.Request,
    ) -> Iterator[tuple[str, ...]]:
        session = str(request.session_hash)
        stop = self._running[session] = threading.Event()
        shown = _columns(Trace(), Trace())
        try:
            if not prompt.strip():
                raise UserError("Write a prompt first.")
            if len(prompt) > _LONGEST_PROMPT:
                raise UserError(f"The prompt has {len(prompt)} characters; the limit is {_LONGEST_PROMPT}.")
            yield _status("Loading the models …"), *shown
            guidance = replace(
                self._options.guidance, beta=beta, value_beta=value_beta, top_k=int(top_k), search=search,
                num_rows=min(int(num_rows), self._most_rows), block_size=int(block_size),
            )  # fmt: skip
            models = self._load(policy, reward_model)
            yield _status("Writing …"), *shown
            for traces in stream_side_by_side(
                *models,
                encode_prompt(models[1], prompt),
                guidance,
                do_sample=sample,
                max_new_tokens=min(int(tokens), self._options.max_new_tokens),
                stop=stop,
                seed=int(seed),
            ):
                # Candidates are most of the markup and cannot be read while text appears, so they come at the end.
                shown = _columns(*traces, candidates=False)
                yield _status("Writing …"), *shown
            yield _status("Stopped." if stop.is_set() else "Done."), *_columns(*traces)
        except UserError as error:
            yield _status(str(error), error=True), *shown
        except Exception:
            # Messages of libraries may contain paths, so they are only logged.
            logger.exception("The playground could not answer")
            yield _status("An error occurred; the playground's log has the reason.", error=True), *shown
        finally:
            self._running.pop(session, None)

    def _stop(self, request: gr.Request) -> None:
        if running := self._running.get(str(request.session_hash)):
            running.set()

    def _load(self, policy: int, reward_model: int) -> tuple[Any, Any, Any]:
        """The models at these positions of the lists. The last pair is kept in memory."""
        places = (policy, reward_model)
        if self._loaded is None or self._loaded[0] != places:
            self._loaded = None  # frees its memory first
            try:
                self._loaded = places, self._read(*places)
            except UserError as error:
                logger.error("%s", error)
                names = self._options.models[policy], self._options.reward_models[reward_model]
                shown = " and ".join(map(display_name, names))
                raise UserError(f"{shown} cannot be used together; the playground's log has the reason.") from error
        return self._loaded[1]

    def _read(self, policy: int, reward_model: int) -> tuple[Any, Any, Any]:
        names = {"model": self._options.models[policy], "reward_model": self._options.reward_models[reward_model]}
        return load_models(argparse.Namespace(**vars(self._options) | names))


def _choices(names: list[str]) -> list[tuple[str, int]]:
    return [(display_name(name), place) for place, name in enumerate(names)]


def _status(text: str, error: bool = False) -> str:
    kind = 'role="alert" class="rgtg-error"' if error else 'role="status"'
    return f"<p {kind}>{escape(text)}</p>"


def _columns(guided: Trace, unguided: Trace, candidates: bool = True) -> tuple[str, ...]:
    scale = reward_scale([guided, unguided])
    columns = (_column(*side, scale, candidates) for side in (("Guided", guided), ("Unguided", unguided)))
    return *columns, key_html(scale), reward_curves(guided, unguided)


def _column(name: str, trace: Trace, scale: float, candidates: bool = True) -> str:
    text = tokens_html(trace, scale, f"{name} response, token by token", candidates=candidates)
    return f'<h2>{name}</h2><p class="rgtg-quiet">{summary(trace)}</p>{text}'
