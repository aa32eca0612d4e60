"""`rgtg-hf merge`: merges linear steering heads into a policy, or into a LoRA adapter of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.model_pair import is_steering_head
from rgtg_hf.cli.next_command import suggest
from rgtg_hf.cli.option_checks import check_model_name
from rgtg_hf.cli.output_dir import check_output_dir, claim_output_dir
from rgtg_hf.cli.parser import LineParser
from rgtg_hf.cli.quiet import quiet_transformers
from rgtg_hf.config import resolve_guidance
from rgtg_hf.rewards.source import RewardModelSource

__all__ = ["run"]


def run(arguments: Sequence[str]) -> None:
    """Writes a policy with heads merged into it, as an ordinary checkpoint or adapter that needs no plugin.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong.
    """
    options = _parser().parse_args(list(arguments))
    given = options.betas or []
    if len(given) == 1:
        given *= len(options.heads)
    if given and len(given) != len(options.heads):
        raise UserError(f"--betas has {len(given)} values for {len(options.heads)} heads; give one for each, or one")
    if not all(map(math.isfinite, given)):
        raise UserError(f"--betas is {given}; the numbers must be finite")
    check_model_name("--model", options.model)
    for head in options.heads:
        check_model_name("--heads", head)
    folder = Path(options.output_dir)
    check_output_dir(folder)
    merge = _way_of_merging(options.lora)

    from transformers import AutoModelForCausalLM

    from rgtg_hf.rewards.load import load_model, load_tokenizer
    from rgtg_hf.rewards.next_token import NextTokenRewardModel

    quiet_transformers()
    for head in options.heads:
        with blame_input(f"the head {head} cannot be loaded"):
            if not is_steering_head(head):
                raise UserError(f"--heads: {head} is not a steering head; give one that was made from the policy")
    with blame_input("the policy cannot be loaded"):
        policy = load_model(AutoModelForCausalLM, options.model)
        tokenizer = load_tokenizer(options.model)
    with blame_input("the heads cannot be merged"):
        heads = [load_model(NextTokenRewardModel, head) for head in options.heads]
        betas = given or [_own_beta(head) for head in options.heads]
        merged: Any = merge(policy, list(zip(heads, betas, strict=True)))
    claim_output_dir(folder)
    merged.save_pretrained(folder)
    strengths = ", ".join(f"{beta:g}" for beta in betas)
    if options.lora:
        rank, named = str(merged.config.r), f"{folder.name}={folder}"
        print(f"Written: {folder}, a LoRA adapter of rank {rank}, beta {strengths}")
        suggest("vllm", "serve", options.model, "--enable-lora", "--max-lora-rank", rank, "--lora-modules", named)
        return
    tokenizer.save_pretrained(folder)
    print(f"Written: {folder}, an ordinary checkpoint, beta {strengths}")
    suggest("vllm", "serve", str(folder))


def _own_beta(head: str) -> float:
    """The strength that is saved beside a head, or 1."""
    return resolve_guidance({}, source=RewardModelSource(head)).config.beta  # type: ignore[return-value]


def _way_of_merging(lora: bool) -> Callable[..., Any]:
    """The function that merges. It is loaded before the models, since the package it needs may be missing."""
    if lora:
        from rgtg_hf.rewards.lora import heads_as_lora

        return heads_as_lora
    from rgtg_hf.rewards.merge import merge_heads

    return merge_heads


def _parser() -> LineParser:
    parser = LineParser(
        "merge",
        "Merge linear steering heads into a policy. The result is an ordinary checkpoint, or a LoRA adapter.",
        "--model NAME --heads NAME [NAME ...] --output_dir DIR [options]",
        [
            "rgtg-hf merge --model owner/policy --heads my_head --betas 2 --output_dir steered_policy",
            "rgtg-hf merge --model owner/policy --heads my_head --betas 2 --lora --output_dir my_adapter",
        ],
    )
    add = parser.group("policy and heads")
    add("--model", required=True, help="the policy that the heads were trained on")
    add("--heads", nargs="+", required=True, help="linear heads, the default kind")
    add("--betas", type=float, nargs="+", shown="each head's own", help="strength of each head, or one for all")
    add("--lora", action="store_true", help="write a LoRA adapter, which a server uses for the requests that ask")
    add("--output_dir", metavar="DIR", required=True, help="folder of the merged policy, or of the adapter")
    return parser
