"""`rgtg-hf playground`: guided and unguided text side by side in the browser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.model_pair import add_guidance_options, add_loading_options, resolve_options
from rgtg_hf.cli.option_checks import check_at_least_one, check_model_name
from rgtg_hf.cli.parser import LineParser

__all__ = ["make_app", "run"]

_LARGEST_BETA = 10.0


def run(arguments: Sequence[str]) -> None:
    """Serves the playground until it is interrupted.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong.
    """
    options = _parse(arguments)
    app = make_app(arguments)
    try:
        app.launch(server_name=options.host, server_port=options.port, share=False)
    except OSError as error:
        raise UserError(f"--port: the playground cannot listen on {options.host}:{options.port} ({error})") from error


def make_app(arguments: Sequence[str]) -> Any:
    """Makes the playground without serving it, for a Space or another application.

    Args:
        arguments: The options of `rgtg-hf playground`.

    Returns:
        The app. Its `launch()` takes the arguments of `gradio.Blocks.launch`.

    Raises:
        UserError: If the input is wrong.

    Example:
        ```python
        from rgtg_hf.cli.playground.playground_command import make_app

        def serve(policy_folder, reward_folder):
            make_app(["--model", policy_folder, "--reward_model", reward_folder]).launch()
        ```
    """
    options = _parse(arguments)
    from rgtg_hf.cli.playground.playground_app import Playground

    return Playground(options)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    options = _parser().parse_args(list(arguments))
    for name in options.models:
        check_model_name("--model", name)
    for name in options.reward_models:
        check_model_name("--reward_model", name)
    options.guidance = resolve_options(options, options.reward_models[0])
    if not abs(options.beta) <= _LARGEST_BETA:
        raise UserError(f"--beta is {options.beta}; the slider goes from {-_LARGEST_BETA:g} to {_LARGEST_BETA:g}")
    check_at_least_one(options, "max_new_tokens")
    if options.port is not None and not 0 < options.port < 65536:
        raise UserError(f"--port is {options.port}; it must be between 1 and 65535")
    return options


def _parser() -> LineParser:
    parser = LineParser(
        "playground",
        "Show guided and unguided text side by side in the browser.",
        "--model NAME [NAME ...] --reward_model NAME [NAME ...] [options]",
        ["rgtg-hf playground --model owner/policy --reward_model my_rm"],
    )
    add = parser.group("page")
    add("--host", default="127.0.0.1", help="address; 0.0.0.0: for all machines")
    add("--port", type=int, shown="the first free one from 7860", help="port")
    add = parser.group("models")
    add("--model", dest="models", nargs="+", required=True, help="policies to choose from")
    add("--reward_model", dest="reward_models", nargs="+", required=True, help="reward models to choose from")
    add_loading_options(add)
    add_guidance_options(parser, "beta", "top_k", "search", "num_rows", "block_size")
    parser.group("sampling")("--max_new_tokens", type=int, default=64, help="most tokens per response")
    return parser
