"""`rgtg-hf generate`: text from a policy, steered by a reward model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rgtg_hf.cli.checks import check_guidance, check_model_name, check_same_tokenizer
from rgtg_hf.cli.errors import LineParser, UserError, blame_input
from rgtg_hf.cli.processes import join_processes
from rgtg_hf.cli.prompts import check_length, encode_prompts, read_prompt_rows, read_prompts

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Generates and prints: streamed for one prompt, one after another for several.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong.
    """
    options = _parser().parse_args(list(arguments))
    check_guidance(options.beta, options.top_k)
    _check_sampling(options)
    check_model_name("--model", options.model)
    check_model_name("--reward_model", options.reward_model)
    if options.output:
        _to_file(options)
    elif join_processes(options.device).count > 1:
        raise UserError("several processes share the work of a file only: give --prompts and --output")
    else:
        _to_terminal(options)


def _to_terminal(options: argparse.Namespace) -> None:
    prompts = read_prompts(options.prompt, options.prompts)
    from transformers import TextStreamer, set_seed

    policy, tokenizer, make_processor = load_pair(options)
    for number, prompt in enumerate(prompts, start=1):
        template = {"chat_template": not options.no_chat_template}
        check_length(tokenizer, policy, prompt, number, options.max_new_tokens, **template)
    processor = make_processor(options.beta)
    set_seed(options.seed)
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if len(prompts) == 1 else None
    for start in range(0, len(prompts), options.batch_size):
        batch = prompts[start : start + options.batch_size]
        responses = _respond(options, policy, tokenizer, processor, batch, options.max_new_tokens, streamer)
        if streamer is not None:
            continue
        for prompt, ids in zip(batch, responses, strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            print(f"> {prompt if isinstance(prompt, str) else prompt[-1]['content']}\n{text}\n", flush=True)


def _to_file(options: argparse.Namespace) -> None:
    from rgtg_hf.cli.batch import PartialOutput, plan_batches, run_header, settings_of_rows, write_responses

    if options.prompts and options.prompts.endswith(".jsonl"):
        rows = [{"prompt": prompt} for prompt in options.prompt] + read_prompt_rows(options.prompts)
    else:
        rows = [{"prompt": prompt} for prompt in read_prompts(options.prompt, options.prompts)]
    planned = settings_of_rows(rows, options)
    processes = join_processes(options.device)
    options.device = processes.device
    output = PartialOutput(Path(options.output), run_header(options, planned), len(planned), processes.index)
    try:
        policy, tokenizer, make_processor = load_pair(options)
        make_processor = cache(make_processor)
        batches = plan_batches(
            planned,
            lambda row: check_length(
                tokenizer,
                policy,
                row.prompt,
                row.index + 1,
                row.max_new_tokens,
                chat_template=not options.no_chat_template,
            ),
            options.batch_size,
        )
        write_responses(
            output,
            batches,
            lambda batch: _respond(
                options,
                policy,
                tokenizer,
                make_processor(batch[0].beta),
                [row.prompt for row in batch],
                batch[0].max_new_tokens,
            ),
            lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            options.seed,
            processes,
        )
        output.close()
        processes.wait()
        if processes.index == 0:
            output.finish()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the finished rows are in {output.path}; the same command goes on from them"
        ) from None
    finally:
        output.close()


def _respond(
    options: argparse.Namespace,
    policy: Any,
    tokenizer: Any,
    processor: Any,
    prompts: Sequence[Any],
    max_new_tokens: int,
    streamer: Any = None,
) -> list[list[int]]:
    """Generates for one batch: the ids of each response up to its end, without padding."""
    from rgtg_hf.evaluation.divergence import response_mask
    from rgtg_hf.evaluation.sampling import end_token_ids

    inputs = encode_prompts(tokenizer, prompts, chat_template=not options.no_chat_template).to(policy.device)
    processor.reset(attention_mask=inputs["attention_mask"])
    chosen: dict[str, Any] = {"max_new_tokens": max_new_tokens, "pad_token_id": tokenizer.pad_token_id}
    if options.greedy:
        chosen |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    else:
        # The candidates are the processor's business, so generate()'s own top_k (50 by default) is out of play.
        chosen |= {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
    output = policy.generate(**inputs, **chosen, logits_processor=[processor], streamer=streamer)
    response_ids = output[:, inputs["input_ids"].shape[1] :].cpu()
    mask = response_mask(response_ids, end_token_ids(policy))
    return [row[kept].tolist() for row, kept in zip(response_ids, mask, strict=True)]


def load_pair(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Loads policy and reward model and makes the processor.

    Args:
        options: As for [`load_models`], and `beta` and `top_k`.

    Returns:
        The policy, its tokenizer, and a function from beta to the steering processor.

    Raises:
        UserError: If a model cannot be loaded or steered with.
    """
    from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
    from rgtg_hf.evaluation.sampling import end_token_ids

    policy, tokenizer, reward_model = load_models(options)

    def make_processor(beta: float) -> Any:
        with blame_input("--reward_model: it cannot steer this policy", (TypeError, ValueError)):
            return RewardGuidedLogitsProcessor(
                reward_model,
                beta=beta,
                top_k=options.top_k,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=end_token_ids(policy),
            )

    return policy, tokenizer, make_processor


def load_models(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Loads a policy and a reward model that reads the same tokens.

    Args:
        options: With `model`, `reward_model`, `dtype`, `device` and `trust_remote_code`.

    Returns:
        The policy, its tokenizer, and the reward model.

    Raises:
        UserError: If one of them cannot be loaded, or their tokenizers differ.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from rgtg_hf.rewards.load import load_model, load_reward_model, load_tokenizer

    trust = {"trust_remote_code": options.trust_remote_code}
    with blame_input(f"--model: {options.model} cannot be loaded"):
        tokenizer = load_tokenizer(options.model, **trust)
    with blame_input(f"--reward_model: {options.reward_model} cannot be loaded"):
        reward_tokenizer = load_tokenizer(options.reward_model, **trust)
    check_same_tokenizer(tokenizer, reward_tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with blame_input(f"--model: {options.model} cannot be loaded"):
        policy = load_model(AutoModelForCausalLM, options.model, dtype=options.dtype, **trust)
    if any(kind.endswith("ForSequenceClassification") for kind in policy.config.architectures or []):
        raise UserError(
            f"--model: {options.model} holds a reward model; give the language model that is to be steered"
        )
    with blame_input(f"--reward_model: {options.reward_model} cannot be loaded"):
        reward_model = load_reward_model(options.reward_model, dtype=options.dtype, **trust)
    return policy.to(device), tokenizer, reward_model.to(device)


def _check_sampling(options: argparse.Namespace) -> None:
    if options.max_new_tokens < 1:
        raise UserError(f"--max_new_tokens is {options.max_new_tokens}; it must be at least 1")
    if options.batch_size < 1:
        raise UserError(f"--batch_size is {options.batch_size}; it must be at least 1")
    if not options.temperature > 0:
        raise UserError(f"--temperature is {options.temperature}; it must be above 0 (for the likeliest: --greedy)")
    if not 0 < options.top_p <= 1:
        raise UserError(f"--top_p is {options.top_p}; it must be above 0 and at most 1")


def _parser() -> LineParser:
    parser = LineParser(
        prog="rgtg-hf generate",
        description="Generate text from a policy that is steered by a prefix reward model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog='example: rgtg-hf generate --model owner/policy --reward_model my_rm --beta 2 "Tell me a story."',
    )
    add = parser.add_argument
    add("prompt", nargs="*", help="prompts; a single one is streamed to the terminal")
    add("--model", required=True, help="the policy: a folder or a hub name")
    add("--reward_model", required=True, help="the reward model, with the policy's tokenizer: a folder or a hub name")
    add("--beta", type=float, default=1.0, help="strength of steering; 0 does not steer")
    add("--top_k", type=int, default=10, help="candidates per step: the policy's likeliest tokens")
    add("--prompts", metavar="FILE", help="a file with one prompt per line, or .jsonl rows with a `prompt`")
    add("--output", metavar="FILE", help="write .jsonl rows there, in order; a run that was interrupted goes on")
    add("--max_new_tokens", type=int, default=128, help="tokens per response at most")
    add("--greedy", action="store_true", help="take the likeliest candidate instead of sampling")
    add("--temperature", type=float, default=1.0, help="of sampling; it also divides beta")
    add("--top_p", type=float, default=1.0, help="sample from the smallest set of candidates with this probability")
    add("--seed", type=int, default=0, help="of sampling")
    add("--batch_size", type=int, default=8, help="prompts decoded together")
    add("--no_chat_template", action="store_true", help="continue the prompts as they stand")
    add("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"], help="of both models")
    add("--device", help="where both models run (default: the GPU if there is one, else the CPU)")
    add("--trust_remote_code", action="store_true", help="run code that comes with a model; only for models you trust")
    return parser
