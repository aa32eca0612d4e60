"""`rgtg-hf inspect`: a page that shows what the reward did at every token of a response."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rgtg_hf.cli.checks import check_guidance, check_model_name
from rgtg_hf.cli.errors import LineParser, UserError, blame_input

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Answers a prompt with and without steering, and writes the page.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong.
    """
    options = _parser().parse_args(list(arguments))
    check_guidance(options.beta, options.top_k)
    if not options.prompt.strip():
        raise UserError("the prompt is empty; give it some text")
    if options.max_new_tokens < 1:
        raise UserError(f"--max_new_tokens is {options.max_new_tokens}; it must be at least 1")
    check_model_name("--model", options.model)
    check_model_name("--reward_model", options.reward_model)
    output = Path(options.output)
    _check_output(output)

    from rgtg_hf.cli.generate import load_models
    from rgtg_hf.inspection.inspect import inspect
    from rgtg_hf.inspection.page import summary

    policy, tokenizer, reward_model = load_models(options)
    with blame_input("the prompt cannot be inspected", (TypeError, ValueError)):
        found = inspect(
            policy,
            tokenizer,
            reward_model,
            options.prompt,
            beta=options.beta,
            top_k=options.top_k,
            max_new_tokens=options.max_new_tokens,
            do_sample=not options.greedy,
            seed=options.seed,
            chat_template=not options.no_chat_template,
        )
    with blame_input(f"--output: {output} cannot be written", (OSError,)):
        found.save(output)
    print(f"steered:   {summary(found.steered)}\nunsteered: {summary(found.unsteered)}\n{output}")


def _check_output(output: Path) -> None:
    """Checks, before anything is loaded, that the page may be written: over nothing, or over an earlier page."""
    from rgtg_hf.inspection.generator import GENERATOR

    if not output.parent.is_dir():
        raise UserError(f"--output: the folder {output.parent} does not exist; make it first")
    if output.is_dir():
        raise UserError(f"--output: {output} is a folder; give the name of a file, such as inspect.html")
    if output.exists() and GENERATOR.encode() not in output.read_bytes()[:4000]:
        raise UserError(f"--output: {output} exists and is no page of rgtg-hf; choose another name")


def _parser() -> LineParser:
    parser = LineParser(
        prog="rgtg-hf inspect",
        description="Answer a prompt with and without steering, and show the reward of every token on a page.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog='example: rgtg-hf inspect --model owner/policy --reward_model my_rm --beta 2 "Tell me a story."',
    )
    add = parser.add_argument
    add("prompt", help="the prompt")
    add("--model", required=True, help="the policy: a folder or a hub name")
    add("--reward_model", required=True, help="the reward model, with the policy's tokenizer: a folder or a hub name")
    add("--output", metavar="FILE", default="inspect.html", help="the page; an earlier one is replaced")
    add("--beta", type=float, default=1.0, help="strength of steering; 0 does not steer")
    add("--top_k", type=int, default=10, help="candidates per step: the policy's likeliest tokens")
    add("--max_new_tokens", type=int, default=64, help="tokens per response at most")
    add("--greedy", action="store_true", help="take the likeliest candidate instead of sampling")
    add("--seed", type=int, default=0, help="of sampling, for both responses")
    add("--no_chat_template", action="store_true", help="continue the prompt as it stands")
    add("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"], help="of both models")
    add("--device", help="where both models run (default: the GPU if there is one, else the CPU)")
    add("--trust_remote_code", action="store_true", help="run code that comes with a model; only for models you trust")
    return parser
