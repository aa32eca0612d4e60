"""`rgtg-hf playground`: steered and unsteered text side by side in the browser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rgtg_hf.cli.checks import check_guidance, check_model_name
from rgtg_hf.cli.errors import LineParser, UserError

__all__ = ["make_app", "run"]

_MOST_BETA = 10.0


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
    """Makes the playground without serving it, for a Space or an application of one's own.

    Args:
        arguments: The options of `rgtg-hf playground`.

    Returns:
        An app; its `launch()` is that of `gradio.Blocks`, with the playground's looks.

    Raises:
        UserError: If the input is wrong.

    Example:
        ```python
        from rgtg_hf.cli.playground import make_app

        def serve(policy_folder, reward_folder):
            make_app(["--model", policy_folder, "--reward_model", reward_folder]).launch()
        ```
    """
    options = _parse(arguments)
    from rgtg_hf.cli.playground_app import Playground

    return Playground(options)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    options = _parser().parse_args(list(arguments))
    check_guidance(options.beta, options.top_k)
    if not abs(options.beta) <= _MOST_BETA:
        raise UserError(f"--beta is {options.beta}; the slider goes from {-_MOST_BETA:g} to {_MOST_BETA:g}")
    if options.max_new_tokens < 1:
        raise UserError(f"--max_new_tokens is {options.max_new_tokens}; it must be at least 1")
    if options.port is not None and not 0 < options.port < 65536:
        raise UserError(f"--port is {options.port}; it must be between 1 and 65535")
    for name in options.models:
        check_model_name("--model", name)
    for name in options.reward_models:
        check_model_name("--reward_model", name)
    return options


def _parser() -> LineParser:
    parser = LineParser(
        prog="rgtg-hf playground",
        description="Steer in the browser: steered and unsteered text side by side. Only this machine can reach it, "
        "unless --host says otherwise.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="example: rgtg-hf playground --model owner/policy --reward_model my_rm",
    )
    add = parser.add_argument
    add("--model", dest="models", nargs="+", required=True, help="policies to choose from: folders or hub names")
    add("--reward_model", dest="reward_models", nargs="+", required=True, help="reward models to choose from")
    add("--beta", type=float, default=1.0, help="where the slider stands at first")
    add("--top_k", type=int, default=10, help="candidates per step: the policy's likeliest tokens")
    add("--max_new_tokens", type=int, default=64, help="tokens per response at most")
    add("--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0 lets others in")
    add("--port", type=int, help="the port (default: the first free one from 7860)")
    add("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"], help="of both models")
    add("--device", help="where both models run (default: the GPU if there is one, else the CPU)")
    add("--trust_remote_code", action="store_true", help="run code that comes with a model; only for models you trust")
    return parser
