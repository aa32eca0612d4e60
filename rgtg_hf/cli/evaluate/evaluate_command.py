"""`rgtg-hf evaluate`: guidance and other methods compared on a user's own prompts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.model_pair import add_loading_options, add_model_settings, resolve_options
from rgtg_hf.cli.next_command import suggest
from rgtg_hf.cli.option_checks import check_at_least_one, check_guidance, check_model_name
from rgtg_hf.cli.output_dir import check_output_dir, claim_output_dir, read_marker
from rgtg_hf.cli.parser import LineParser
from rgtg_hf.cli.partial import PartialOutput, digest, has_finished_rows, work_through
from rgtg_hf.cli.processes import Processes, join_processes
from rgtg_hf.cli.prompt_files import encode_prompts, read_prompts
from rgtg_hf.cli.quiet import quiet_transformers

__all__ = ["run"]

_MODELS = ("reward_model", "full_reward_model", "head", "fine_tuned", "proxy_tuned", "proxy_base", "autoregressive_rm")
# The settings that the results depend on. An output folder belongs to one choice of them.
_CONFIGURATION = [
    *("model", *_MODELS, "instruction", "methods", "betas", "args_betas", "head_betas", "ns", "strengths"),
    *("cards_targets", "gold", "top_k", "block_size", "value_beta", "max_new_tokens", "seed", "batch_size"),
    *("no_chat_template", "dtype", "trust_remote_code"),
]


@dataclass(frozen=True)
class _Job:
    """One response to write.

    Attributes:
        index: Position among all responses.
        method: The method that writes it.
        strength: The method's beta, n or strength; 0 if it has none.
        place: Position of the prompt in the file.
        prompt: The prompt.
        seed: Seed of the batch.
    """

    index: int
    method: str
    strength: float
    place: int
    prompt: Any
    seed: int


def run(arguments: Sequence[str]) -> None:
    """Writes the responses of all methods, judges them and writes the report.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong.
    """
    options = _parser().parse_args(list(arguments))
    _check(options)
    prompts = read_prompts([], options.prompts)
    # Hashes, because the name of a model may be the path of a private folder.
    configuration = {name: digest(getattr(options, name)) for name in _CONFIGURATION} | {"prompts": digest(prompts)}
    folder = Path(options.output)
    _check_folder(folder, configuration)
    processes = join_processes(options.device)
    quiet_transformers()
    options.device = processes.own_device
    # One process judges alone, because a judge may be as large as the policy.
    judges = _load_judges(options) if processes.index == 0 else None
    if judges:
        _warn_of_overlap(options.training_data, prompts)
        claim_output_dir(folder, command="evaluate", configuration=configuration)
    processes.wait()
    if not (folder / "texts.jsonl").exists():
        _write_texts(folder, options, prompts, configuration, processes)
    processes.wait()
    if judges:
        from rgtg_hf.cli.evaluate.evaluate_report import write_report

        write_report(folder, options, prompts, *judges)
        if options.reward_model and Path(options.reward_model).is_dir():
            suggest("rgtg-hf", "push", options.reward_model, "your-name/your-reward-model", "--private")


def _check(options: argparse.Namespace) -> None:
    from rgtg_hf.evaluation.methods import METHODS

    check_at_least_one(options, "max_new_tokens", "batch_size")
    if min(options.ns) < 1:
        raise UserError(f"--ns has {min(options.ns)}; every n must be at least 1")
    for option in ("model", *_MODELS):
        if getattr(options, option):
            check_model_name(f"--{option}", getattr(options, option))
    _choose_betas(options)
    for beta in [*options.betas, *options.args_betas, *options.head_betas]:
        check_guidance(beta, options.top_k)
    if options.methods is None:
        options.methods = [name for name, method in METHODS.items() if not _missing(method, options)]
    for name in options.methods:
        if name not in METHODS:
            raise UserError(f"--methods: there is no method {name!r}; choose from: {', '.join(METHODS)}")
        if missing := _missing(METHODS[name], options):
            raise UserError(f"--methods: {name} needs --{' and --'.join(missing)}; give it, or leave the method out")
    # All methods are compared with the policy.
    options.methods = list(dict.fromkeys(["policy", *options.methods]))


def _load_judges(options: argparse.Namespace) -> tuple[Any, Any]:
    """The judge, and the second one or None."""
    from rgtg_hf.cli.judge import load_judge

    settings = {"device": options.device, "trust_remote_code": options.trust_remote_code}
    gold = load_judge(options.gold, **settings)
    second = load_judge(options.second_gold, option="--second_gold", **settings) if options.second_gold else None
    return gold, second


def _choose_betas(options: argparse.Namespace) -> None:
    """Gives every method its strengths. By default they are around the one that is saved beside a model."""
    given, own = options.betas, argparse.Namespace(**vars(options))
    beta: Any = resolve_options(options, options.reward_model or options.head).beta
    options.betas = given or _around(beta)
    options.args_betas = options.args_betas or options.betas
    if not options.head_betas:
        if options.reward_model and options.head and not given:
            beta = resolve_options(own, options.head).beta  # a head's rewards have another unit
        options.head_betas = given or _around(beta)


def _around(beta: float) -> list[float]:
    return [beta / 2, beta, 2 * beta]


def _missing(method: Any, options: argparse.Namespace) -> list[str]:
    """The options that a method needs and that were not given."""
    needs = [*method.needs, *([method.strengths] if method.strengths else [])]
    return [name for name in needs if not getattr(options, name)]


def _check_folder(folder: Path, configuration: dict[str, str]) -> None:
    check_output_dir(folder, "--output")
    marker = read_marker(folder)
    # After a run that ended in an error before its first text, the folder belongs to no configuration.
    if marker is None or (marker.get("command") == "evaluate" and not has_finished_rows(folder / "texts.jsonl")):
        return
    held = marker.get("configuration")
    if held is None:
        raise UserError(f"--output: {folder} holds the result of `rgtg-hf {marker.get('command')}`; choose another")
    if changed := [name for name in configuration if held.get(name) != configuration[name]]:
        raise UserError(
            f"--output: {folder} holds another evaluation, which differs in: {', '.join(changed)}; give the same "
            "settings to continue it, or choose another folder"
        )


def _warn_of_overlap(name: str | None, prompts: Sequence[Any]) -> None:
    """Warns of prompts that the reward model was trained on, because a gain on them says little."""
    if name is None:
        return
    from rgtg_hf.cli.preferences import check_columns, load_preferences

    pairs = load_preferences(name, None, "train")
    check_columns(pairs, name)
    trained = {_as_key(row["prompt"] if "prompt" in row else row["chosen"]) for row in pairs}
    shared = sum(_as_key(prompt) in trained for prompt in prompts)
    if shared:
        from rich.console import Console

        Console(stderr=True).print(
            f"[bold]Warning:[/bold] {shared} of {len(prompts)} prompts are among the training pairs of {name}; a "
            "gain on them says little about new prompts"
        )


def _as_key(prompt: Any) -> str:
    """The text of a prompt, or the first user message of a conversation, without differences in spaces and case."""
    if not isinstance(prompt, str):
        prompt = next((message["content"] for message in prompt if message["role"] == "user"), "")
    return " ".join(prompt.split()).casefold()


def _write_texts(
    folder: Path, options: argparse.Namespace, prompts: Sequence[Any], configuration: Any, processes: Processes
) -> None:
    from rgtg_hf.cli.evaluate.evaluate_models import load_contestants
    from rgtg_hf.evaluation.prompts import with_instruction

    with PartialOutput(folder / "texts.jsonl", {"configuration": configuration}, processes) as output:
        contestants = load_contestants(options)
        tokenizer, policy = contestants.tokenizer, contestants.policy

        def encode(some: Sequence[Any]) -> Any:
            return encode_prompts(tokenizer, some, chat_template=not options.no_chat_template)

        def make_rows(number: int, batch: list[_Job]) -> list[dict[str, Any]]:
            inputs = dict(encode([job.prompt for job in batch]).to(policy.device))
            first = batch[0]
            more = {}
            if first.method == "prompted":
                told = [with_instruction(job.prompt, options.instruction) for job in batch]
                more["prompted"] = dict(encode(told).to(policy.device))
            sampled = contestants.respond(first.method, first.strength, inputs, first.seed, **more)
            steering = contestants.steering_rewards(first.method, inputs, sampled)
            return [
                {
                    **vars(job),
                    "response": sampled.texts[row],
                    "tokens": len(sampled.ids[row]),
                    "ids": sampled.ids[row],
                    "kl": sampled.divergences[row],
                    "log_likelihood": sampled.log_likelihoods[row],
                    "steering_reward": steering[row] if steering else None,
                    "seconds": sampled.seconds / len(batch),
                    "reward_model_tokens": sampled.reward_model_tokens / len(batch),
                }
                for row, job in enumerate(batch)
            ]

        lengths = [encode([prompt])["input_ids"].shape[1] for prompt in prompts]
        work_through(output, _plan(options, prompts, lengths), make_rows)


def _plan(options: argparse.Namespace, prompts: Sequence[Any], lengths: Sequence[int]) -> list[list[_Job]]:
    """Plans the batches of all methods from the settings alone. Every method gets the same batches and seeds."""
    from rgtg_hf.evaluation.methods import METHODS

    order = sorted(range(len(prompts)), key=lambda place: (-lengths[place], place))
    batches, done = [], 0
    for method in options.methods:
        setting = METHODS[method].strengths
        for strength in sorted(set(getattr(options, setting))) if setting else [0.0]:
            for number, start in enumerate(range(0, len(order), options.batch_size)):
                places = order[start : start + options.batch_size]
                seed = options.seed + number
                batches.append([_Job(done + p, method, float(strength), p, prompts[p], seed) for p in places])
            done += len(prompts)
    return batches


def _parser() -> LineParser:
    parser = LineParser(
        "evaluate",
        "Compare ways of guiding a policy with other methods, on your own prompts.",
        "--model NAME --prompts FILE --gold NAME --output DIR [options]",
        [
            "rgtg-hf evaluate --model owner/policy --reward_model my_rm --prompts prompts.txt \\\n"
            "      --gold vader --output results"
        ],
    )
    add = parser.group("prompts and results")
    add("--prompts", required=True, metavar="FILE", help="one prompt per line, or .jsonl rows with a `prompt`")
    add("--gold", required=True, help="vader, flesch, module:function or a reward model")
    add("--second_gold", metavar="GOLD", help="another judge, which shows what only the first one likes")
    add("--output", required=True, metavar="DIR", help="folder; an interrupted evaluation continues")
    add("--batch_size", type=int, default=32, help="prompts decoded together")
    add("--training_data", help="training pairs, to warn of prompts that are among them")
    add("--pairs", help="held-out pairs, for the accuracy of reward models")
    add = parser.group("models")
    add("--model", required=True, help="the policy: a folder or a hub name")
    add("--reward_model", help="prefix reward model, for pargs, best_of_n and searches")
    add("--full_reward_model", help="reward model of whole responses: args, best_of_n_full, cards")
    add("--head", help="steering head of the policy, for head")
    add("--fine_tuned", help="the policy after DPO or the like, for offline")
    add("--proxy_tuned", help="a small model after tuning, for proxy")
    add("--proxy_base", help="the small model before tuning, for proxy")
    add("--autoregressive_rm", help="autoregressive reward model, for genarm")
    add_loading_options(add)
    add = parser.group(
        "methods",
        "policy, greedy, prompted, pargs, pargs_greedy, args, args_greedy, best_of_n,\n"
        "best_of_n_full, blockwise, halving, particles, cards, head, offline, proxy, genarm",
    )
    add("--methods", nargs="+", metavar="METHOD", shown="all that can be compared", help="methods to compare")
    add("--instruction", metavar="TEXT", help='for prompted, such as "Answer cheerfully."')
    add("--betas", type=float, nargs="+", shown="the model's x 0.5 1 2", help="strengths of steering, particles")
    add_model_settings(add, "value_beta")
    add("--args_betas", type=float, nargs="+", shown="--betas", help="strengths of args, on another scale")
    add("--head_betas", type=float, nargs="+", shown="--betas, or the head's x 0.5 1 2", help="strengths of head")
    add("--ns", type=int, nargs="+", default=[8], help="responses, rows or particles")
    add("--strengths", type=float, nargs="+", default=[1.0], help="of prompted, offline, proxy, genarm")
    add("--cards_targets", type=float, nargs="+", help="rewards for cards to reach")
    of_model = {"type": int, "default": argparse.SUPPRESS, "shown": "the model's"}
    add("--top_k", help="candidates per step", **of_model)
    add("--block_size", help="tokens per block of a search", **of_model)
    add = parser.group("sampling")
    add("--max_new_tokens", type=int, default=64, help="most tokens per response")
    add("--seed", type=int, default=0, help="seed of sampling")
    add("--no_chat_template", action="store_true", help="continue the prompts as they are")
    return parser
