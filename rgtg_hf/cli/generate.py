"""`rgtg-hf generate`: text from a policy, steered by a reward model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rgtg_hf.cli.checks import check_guidance, check_model_name, check_same_tokenizer
from rgtg_hf.cli.errors import LineParser, UserError, blame_input
from rgtg_hf.cli.prompts import encode_prompts, read_prompts

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
    prompts = read_prompts(options.prompt, options.prompts)

    from transformers import TextStreamer, set_seed

    policy, tokenizer, processor = load_pair(options)
    set_seed(options.seed)
    single = len(prompts) == 1
    for start in range(0, len(prompts), options.batch_size):
        batch = prompts[start : start + options.batch_size]
        inputs = encode_prompts(tokenizer, batch, chat_template=not options.no_chat_template).to(policy.device)
        processor.reset(attention_mask=inputs["attention_mask"])
        output = policy.generate(
            **inputs,
            **_generation_options(options, tokenizer),
            logits_processor=[processor],
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if single else None,
        )
        if single:
            continue
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for prompt, text in zip(batch, texts, strict=True):
            print(f"> {prompt if isinstance(prompt, str) else prompt[-1]['content']}\n{text.strip()}\n", flush=True)


def load_pair(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Loads policy and reward model and makes the processor.

    Args:
        options: With `model`, `reward_model`, `beta`, `top_k`, `dtype`, `device` and `trust_remote_code`.

    Returns:
        The policy, its tokenizer, and the steering processor.

    Raises:
        UserError: If a model cannot be loaded or steered with.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor

    trust = {"trust_remote_code": options.trust_remote_code}
    with blame_input(f"--model: {options.model} cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(options.model, **trust)
    with blame_input(f"--reward_model: {options.reward_model} cannot be loaded"):
        reward_tokenizer = AutoTokenizer.from_pretrained(options.reward_model, **trust)
    check_same_tokenizer(tokenizer, reward_tokenizer)

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with blame_input(f"--model: {options.model} cannot be loaded"):
        policy: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype, **trust)
    with blame_input(f"--reward_model: {options.reward_model} cannot be loaded"):
        reward_model: Any = AutoModelForSequenceClassification.from_pretrained(
            options.reward_model, dtype=options.dtype, **trust
        )
    with blame_input("--reward_model: it cannot steer this policy", (TypeError, ValueError)):
        processor = RewardGuidedLogitsProcessor(reward_model.to(device), beta=options.beta, top_k=options.top_k)
    return policy.to(device), tokenizer, processor


def _generation_options(options: argparse.Namespace, tokenizer: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = {"max_new_tokens": options.max_new_tokens, "pad_token_id": tokenizer.pad_token_id}
    if options.greedy:
        return chosen | {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    # The candidates are the processor's business, so generate()'s own top_k (50 by default) is out of play.
    return chosen | {"do_sample": True, "temperature": options.temperature, "top_p": options.top_p, "top_k": 0}


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
