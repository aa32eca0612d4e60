"""`rgtg-hf rollouts`: responses of the policy itself, each with its reward, in a file."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.lines import json_lines
from rgtg_hf.cli.model_pair import (
    add_loading_options,
    add_model_settings,
    load_models,
    load_policy,
    resolve_options,
)
from rgtg_hf.cli.next_command import suggest
from rgtg_hf.cli.option_checks import check_at_least_one, check_model_name
from rgtg_hf.cli.parser import LineParser
from rgtg_hf.cli.partial import PartialOutput, work_through
from rgtg_hf.cli.processes import join_processes
from rgtg_hf.cli.prompt_files import check_length, read_prompts
from rgtg_hf.cli.quiet import quiet_transformers
from rgtg_hf.config import RewardGuidanceConfig, resolve_guidance
from rgtg_hf.files import write_whole

__all__ = ["run"]

# A continued run must have the same values of these options.
_SETTINGS = [
    *("model", "reward", "num_responses", "top_k", "max_new_tokens", "seed"),
    *("batch_size", "no_chat_template", "dtype", "trust_remote_code", "guide", "engine"),
]
_TRANSFORMERS, _VLLM = "transformers", "vllm"
_OF_GUIDE = ("beta", "value_beta")


@dataclass(frozen=True)
class _Job:
    """One response to write: its position in the file, and its prompt."""

    index: int
    prompt: Any


def run(arguments: Sequence[str]) -> None:
    """Writes rollouts. A run that was interrupted continues, and several processes share the work.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong.
    """
    options = _parser().parse_args(list(arguments))
    check_at_least_one(options, "num_responses", "top_k", "max_new_tokens", "batch_size")
    check_model_name("--model", options.model)
    if options.engine not in (_TRANSFORMERS, _VLLM) and not options.engine.startswith(("http://", "https://")):
        raise UserError(f"--engine is {options.engine}; give transformers, vllm, or the address of a server")
    guidance = _guidance(options)
    prompts = read_prompts([], options.prompts)
    if options.pairs and Path(options.pairs).exists():
        raise UserError(f"--pairs: {options.pairs} exists; move it away or choose another name")
    processes = join_processes(options.device)
    names = _SETTINGS if guidance is None else [*_SETTINGS, *_OF_GUIDE]
    header = {"settings": {name: getattr(options, name) for name in names}, "prompts": prompts}

    from rgtg_hf.cli.judge import load_judge

    quiet_transformers()
    options.device = processes.own_device
    judging = {"option": "--reward", "device": options.device, "trust_remote_code": options.trust_remote_code}
    reward = load_judge(options.reward, **judging)
    with PartialOutput(Path(options.output), header, processes) as output, ExitStack() as stack:
        chat_template = not options.no_chat_template

        def lengths_of(tokenizer: Any, config: Any) -> list[int]:
            return [
                check_length(tokenizer, config, prompt, number, options.max_new_tokens, chat_template=chat_template)
                for number, prompt in enumerate(prompts, start=1)
            ]

        if options.engine == _TRANSFORMERS:
            policy, tokenizer, processor = _load(options, guidance, stack)
            lengths = lengths_of(tokenizer, policy.config)
        else:
            tokenizer, config = _load_tokenizer(options)
            lengths, processor = lengths_of(tokenizer, config), None
            policy = _load_engine(options, tokenizer, max(lengths) + options.max_new_tokens)

        def make_rows(number: int, batch: list[_Job]) -> list[dict[str, Any]]:
            from rgtg_hf.evaluation.rollouts import rollouts

            with blame_input(f"--reward: {options.reward} cannot be used", (ValueError,)):
                rows = rollouts(
                    policy,
                    tokenizer,
                    [job.prompt for job in batch[:: options.num_responses]],
                    reward,
                    num_responses=options.num_responses,
                    top_k=options.top_k,
                    max_new_tokens=options.max_new_tokens,
                    seed=options.seed + number,
                    chat_template=chat_template,
                    processor=processor,
                )
            return [
                {"index": job.index, **row, "tokens": len(row["completion_ids"])}
                for job, row in zip(batch, rows, strict=True)
            ]

        work_through(output, _plan(options, prompts, lengths), make_rows)
    if processes.index == 0:
        _finish(options)


def _guidance(options: argparse.Namespace) -> RewardGuidanceConfig | None:
    """The settings of the model that guides, if there is one."""
    if options.guide is not None and options.engine != _TRANSFORMERS:
        raise UserError(f"--guide: with --engine {options.engine} nothing can guide; leave --engine out")
    if options.guide is None:
        given = [name for name in _OF_GUIDE if hasattr(options, name)]
        if given:
            raise UserError(f"--{given[0]} is a setting of --guide, which is not given")
        return None
    check_model_name("--guide", options.guide)
    return replace(resolve_options(options, options.guide), search="tokens")


def _load(
    options: argparse.Namespace, guidance: RewardGuidanceConfig | None, stack: ExitStack
) -> tuple[Any, Any, Any]:
    """The policy, its tokenizer, and the processor that guides it while the stack is open."""
    if guidance is None:
        return *load_policy(options), None
    from rgtg_hf.decoding.processor_choice import guidance_processor

    options.reward_model = options.guide
    policy, tokenizer, reward_model = load_models(options, option="--guide")
    with blame_input("--guide: it cannot guide this policy", (TypeError, ValueError)):
        guided = guidance_processor(
            policy,
            reward_model,
            guidance_config=resolve_guidance({}, guidance),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=policy.generation_config.eos_token_id,
        )
        return policy, tokenizer, stack.enter_context(guided)


def _load_tokenizer(options: argparse.Namespace) -> tuple[Any, Any]:
    """The tokenizer and the configuration of a policy whose weights an engine has."""
    from transformers import AutoConfig

    from rgtg_hf.rewards.load import load_tokenizer

    trust = {"trust_remote_code": options.trust_remote_code}
    with blame_input(f"--model: {options.model} cannot be loaded"):
        return load_tokenizer(options.model, **trust), AutoConfig.from_pretrained(options.model, **trust)


def _load_engine(options: argparse.Namespace, tokenizer: Any, max_length: int) -> Any:
    from rgtg_hf.serving.engines import ServerEngine, VllmEngine

    with blame_input(f"--engine: {options.engine} cannot be used", (ImportError, OSError, ValueError, RuntimeError)):
        if options.engine != _VLLM:
            return ServerEngine(options.engine, tokenizer, options.served_model, os.environ.get("OPENAI_API_KEY"))
        settings = {"dtype": options.dtype, "max_model_len": max_length, "seed": options.seed}
        return VllmEngine(options.model, trust_remote_code=options.trust_remote_code, **settings)


def _finish(options: argparse.Namespace) -> None:
    """Says what was found and what to do next, and writes the pairs if they were asked for."""
    from rgtg_hf.cli.judge import describe_rewards
    from rgtg_hf.evaluation.rollouts import pairs_of_rollouts

    rows = [json.loads(line) for line in Path(options.output).read_text(encoding="utf-8").splitlines()]
    print(f"{options.output}: {len(rows)} rollouts, {describe_rewards([row['reward'] for row in rows])}")
    if options.pairs is None:
        start = ("--model_name_or_path", options.model, "--dataset_name", options.output)
        suggest("rgtg-hf", "train-head", *start, "--output_dir", "my_head")
        return
    pairs = pairs_of_rollouts(rows, options.seed)
    with blame_input(f"--pairs: {options.pairs} cannot be written", (OSError,)):
        write_whole(options.pairs, json_lines(pairs))
    print(f"{options.pairs}: {len(pairs)} preference pairs")
    start = ("--model_name_or_path", options.model, "--dataset_name", options.pairs)
    suggest("rgtg-hf", "train", *start, "--num_train_epochs", "1", "--output_dir", "my_reward_model")


def _plan(options: argparse.Namespace, prompts: Sequence[Any], lengths: Sequence[int]) -> list[list[_Job]]:
    """The responses of some prompts of similar length at a time, the longest first."""
    order = sorted(range(len(prompts)), key=lambda place: (-lengths[place], place))
    together = max(1, options.batch_size // options.num_responses)
    return [
        [
            _Job(place * options.num_responses + number, prompts[place])
            for place in order[start : start + together]
            for number in range(options.num_responses)
        ]
        for start in range(0, len(order), together)
    ]


def _parser() -> LineParser:
    parser = LineParser(
        "rollouts",
        "Write responses of the policy itself, each with its reward.",
        "--model NAME --prompts FILE --reward NAME --output FILE [options]",
        [
            "rgtg-hf rollouts --model owner/policy --prompts prompts.jsonl --reward vader --output rollouts.jsonl",
            "rgtg-hf rollouts --model owner/policy --prompts prompts.txt --reward my_module:my_function \\\n"
            "      --num_responses 16 --output rollouts.jsonl",
        ],
    )
    add = parser.group("prompts and responses")
    add("--prompts", required=True, metavar="FILE", help="one prompt per line, or .jsonl rows with a `prompt`")
    add("--reward", required=True, help="vader, flesch, module:function or a reward model")
    add("--output", required=True, metavar="FILE", help="write .jsonl rows here; an interrupted run continues")
    add("--pairs", metavar="FILE", help="write preference pairs of them here too, for train")
    add("--num_responses", type=int, default=8, help="responses to each prompt")
    add("--batch_size", type=int, default=64, help="responses written together")
    add = parser.group("model")
    add("--model", required=True, help="the policy: a folder or a hub name")
    add_loading_options(add)
    add("--engine", default=_TRANSFORMERS, help="vllm, or http://host:port/v1 of a server")
    add("--served_model", metavar="NAME", help="the policy's name at the server, if it serves several")
    add = parser.group("a second round")
    add("--guide", metavar="NAME", help="guide the policy by a reward or value model; rows have weights for it")
    add_model_settings(add, *_OF_GUIDE)
    add = parser.group("sampling")
    add("--top_k", type=int, default=10, help="candidates per step, as many as guidance will have")
    add("--max_new_tokens", type=int, default=128, help="most tokens per response")
    add("--seed", type=int, default=0, help="seed of sampling")
    add("--no_chat_template", action="store_true", help="continue the prompt as it is")
    return parser
