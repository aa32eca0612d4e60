"""`rgtg-hf generate`: text from a policy that is guided by a reward model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.model_pair import (
    add_guidance_options,
    add_model_options,
    add_sampling_options,
    load_models,
    may_be_read_as_head,
    resolve_options,
)
from rgtg_hf.cli.next_command import suggest
from rgtg_hf.cli.option_checks import check_at_least_one, check_model_name
from rgtg_hf.cli.parser import LineParser
from rgtg_hf.cli.processes import join_processes
from rgtg_hf.cli.prompt_files import check_length, encode_prompts, read_prompt_rows, read_prompts
from rgtg_hf.config import OF_CALLS
from rgtg_hf.evaluation.prompts import last_message

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Generates text and prints it, or writes it to a file. The text of a single prompt is streamed.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong.
    """
    options = _parser().parse_args(list(arguments))
    check_at_least_one(options, "max_new_tokens", "batch_size")
    _check_sampling(options)
    check_model_name("--model", options.model)
    check_model_name("--reward_model", options.reward_model)
    rows = _rows(options)
    plain = options.greedy or any("beta" in row for row in rows) or may_be_read_as_head(options.reward_model)
    options.guidance = resolve_options(options, options.reward_model, search_by_default=not plain)
    if options.greedy and options.search != "tokens":
        raise UserError(f"--greedy: rows of a search are sampled, so it does not go with --search {options.search}")
    if options.output:
        _to_file(options, rows)
    elif join_processes(options.device).count > 1:
        raise UserError("several processes can only share the work of a file: give --prompts and --output")
    else:
        _to_terminal(options, [row["prompt"] for row in rows])


def _rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The prompts, each with its own settings if it has any. Those are for responses in a file."""
    if options.output and options.prompts and options.prompts.endswith(".jsonl"):
        return [{"prompt": prompt} for prompt in options.prompt] + read_prompt_rows(options.prompts)
    return [{"prompt": prompt} for prompt in read_prompts(options.prompt, options.prompts)]


def _to_terminal(options: argparse.Namespace, prompts: Sequence[Any]) -> None:
    from transformers import TextStreamer, set_seed

    models = load_models(options)
    _tell_search(options)
    policy, tokenizer, _ = models
    for number, prompt in enumerate(prompts, start=1):
        template = {"chat_template": not options.no_chat_template}
        check_length(tokenizer, policy.config, prompt, number, options.max_new_tokens, **template)
    set_seed(options.seed)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if len(prompts) == 1 else None
    for start in range(0, len(prompts), options.batch_size):
        batch = prompts[start : start + options.batch_size]
        responses = _respond(options, models, batch, options.beta, options.max_new_tokens, streamer)
        if streamer is not None:
            continue
        for prompt, ids in zip(batch, responses, strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            print(f"> {last_message(prompt)}\n{text}\n", flush=True)
    settings = ["--beta", f"{options.beta:g}"] if options.search == "tokens" else ["--search", options.search]
    _suggest(options, "inspect", *settings, last_message(prompts[0]))


def _to_file(options: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> None:
    from rgtg_hf.cli.generate.response_file import plan_batches, run_header, settings_of_rows, write_responses
    from rgtg_hf.cli.partial import PartialOutput

    planned = settings_of_rows(rows, options)
    processes = join_processes(options.device)
    options.device = processes.device
    with PartialOutput(Path(options.output), run_header(options, planned), processes) as output:
        models = load_models(options)
        if processes.index == 0:
            _tell_search(options)
        policy, tokenizer, _ = models
        template = {"chat_template": not options.no_chat_template}
        batches = plan_batches(
            planned,
            lambda row: check_length(
                tokenizer, policy.config, row.prompt, row.index + 1, row.max_new_tokens, **template
            ),
            options.batch_size,
        )
        write_responses(
            output,
            batches,
            lambda batch: _respond(
                options, models, [row.prompt for row in batch], batch[0].beta, batch[0].max_new_tokens
            ),
            lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            options.seed,
        )
    if options.prompts and processes.index == 0:
        _suggest(options, "evaluate", "--prompts", options.prompts, "--output", "outputs/evaluation")


def _tell_search(options: argparse.Namespace) -> None:
    if options.search_by_default:
        how = f"--search {options.search} --num_rows {options.num_rows} --block_size {options.block_size}"
        print(f"rgtg-hf: {how}, since no --beta is given; with one, every token is guided", file=sys.stderr)


def _suggest(options: argparse.Namespace, command: str, *words: str) -> None:
    suggest("rgtg-hf", command, "--model", options.model, "--reward_model", options.reward_model, *words)


def _respond(
    options: argparse.Namespace,
    models: tuple[Any, Any, Any],
    prompts: Sequence[Any],
    beta: float,
    max_new_tokens: int,
    streamer: Any = None,
) -> list[list[int]]:
    """Generates for one batch. Returns the ids of each response up to its end, without padding."""
    from rgtg_hf.decoding.generation import generate_guided
    from rgtg_hf.decoding.padding import kept_ids
    from rgtg_hf.evaluation.divergence import response_mask
    from rgtg_hf.evaluation.sampling import end_token_ids

    policy, tokenizer, reward_model = models
    inputs = encode_prompts(tokenizer, prompts, chat_template=not options.no_chat_template).to(policy.device)
    config = deepcopy(policy.generation_config)
    chosen: dict[str, Any] = {"max_new_tokens": max_new_tokens, "pad_token_id": tokenizer.pad_token_id}
    if options.greedy:
        chosen |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    else:
        # Guidance selects the candidates, so the top_k of generate() (50 by default) is switched off.
        chosen |= {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
    config.update(**chosen)
    with blame_input("--reward_model: it cannot guide this policy", (TypeError, ValueError)):
        output = generate_guided(
            policy.generate,
            policy,
            reward_model,
            None,
            config,
            None,
            guidance_config=replace(options.guidance, beta=beta),
            streamer=streamer,
            **inputs,
        )
    response_ids = output[:, inputs["input_ids"].shape[1] :].cpu()
    mask = response_mask(response_ids, end_token_ids(policy))
    return kept_ids(response_ids, mask)


def _check_sampling(options: argparse.Namespace) -> None:
    if not options.temperature > 0:
        raise UserError(f"--temperature is {options.temperature}; it must be above 0 (for greedy decoding: --greedy)")
    if not 0 < options.top_p <= 1:
        raise UserError(f"--top_p is {options.top_p}; it must be above 0 and at most 1")


def _parser() -> LineParser:
    parser = LineParser(
        "generate",
        "Generate text from a policy that is guided by a prefix reward model.",
        "--model NAME --reward_model NAME [options] [prompt ...]",
        [
            'rgtg-hf generate --model owner/policy --reward_model my_rm "Tell me a story."',
            'rgtg-hf generate --model owner/policy --reward_model my_rm --beta 2 "Tell me a story."',
            "rgtg-hf generate --model owner/policy --reward_model my_rm --prompts prompts.jsonl --output out.jsonl",
        ],
    )
    add = parser.group("prompts and responses")
    add("prompt", nargs="*", help="prompts; the text of a single one is streamed to the terminal")
    add("--prompts", metavar="FILE", help="a file with one prompt per line, or .jsonl rows with a `prompt`")
    add("--output", metavar="FILE", help="write .jsonl rows here, in order; an interrupted run continues")
    add("--batch_size", type=int, default=8, help="prompts decoded together")
    add_model_options(parser)
    add_guidance_options(parser, *OF_CALLS, search_by_default=True)
    add = add_sampling_options(parser, max_new_tokens=128)
    add("--temperature", type=float, default=1.0, help="temperature of sampling; it also divides beta")
    add("--top_p", type=float, default=1.0, help="sample from the top candidates with this probability")
    return parser
