"""`rgtg-hf inspect`: a page that shows the reward of every token of a response."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.model_pair import (
    add_guidance_options,
    add_model_options,
    add_sampling_options,
    load_models,
    resolve_options,
)
from rgtg_hf.cli.next_command import suggest
from rgtg_hf.cli.option_checks import check_at_least_one, check_model_name
from rgtg_hf.cli.parser import LineParser
from rgtg_hf.inspection.page import GENERATOR, summary

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Answers a prompt with and without guidance, and writes the page.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong.
    """
    options = _parser().parse_args(list(arguments))
    if not options.prompt.strip():
        raise UserError("the prompt is empty; give it some text")
    check_at_least_one(options, "max_new_tokens")
    check_model_name("--model", options.model)
    check_model_name("--reward_model", options.reward_model)
    guidance = resolve_options(options, options.reward_model)
    output = Path(options.output)
    _check_output(output)

    from rgtg_hf.inspection.inspect import inspect

    policy, tokenizer, reward_model = load_models(options)
    with blame_input("the prompt cannot be inspected", (TypeError, ValueError)):
        found = inspect(
            policy,
            tokenizer,
            reward_model,
            options.prompt,
            guidance_config=guidance,
            max_new_tokens=options.max_new_tokens,
            do_sample=not options.greedy,
            seed=options.seed,
            chat_template=not options.no_chat_template,
        )
    with blame_input(f"--output: {output} cannot be written", (OSError,)):
        found.save(output)
    print(f"guided:   {summary(found.guided)}\nunguided: {summary(found.unguided)}\n{output}")
    suggest("rgtg-hf", "playground", "--model", options.model, "--reward_model", options.reward_model)


def _check_output(output: Path) -> None:
    """Checks, before any model is loaded, that the file is new or an earlier page."""
    if not output.parent.is_dir():
        raise UserError(f"--output: the folder {output.parent} does not exist; make it first")
    if output.is_dir():
        raise UserError(f"--output: {output} is a folder; give the name of a file, such as inspect.html")
    if output.exists() and GENERATOR.encode() not in output.read_bytes()[:4000]:
        raise UserError(f"--output: {output} exists and is not a page of rgtg-hf; choose another name")


def _parser() -> LineParser:
    parser = LineParser(
        "inspect",
        "Answer a prompt with and without guidance, and show the reward of every token on a page.",
        "--model NAME --reward_model NAME [options] prompt",
        ['rgtg-hf inspect --model owner/policy --reward_model my_rm --beta 2 "Tell me a story."'],
    )
    add = parser.group("prompt and page")
    add("prompt", help="the prompt")
    add("--output", metavar="FILE", default="inspect.html", help="the page; an earlier page is replaced")
    add_model_options(parser)
    add_guidance_options(parser, "beta", "top_k", "search", "num_rows", "block_size")
    add_sampling_options(parser, max_new_tokens=64)
    return parser
