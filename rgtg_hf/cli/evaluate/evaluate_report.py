"""The report of `rgtg-hf evaluate`: JSON, a Markdown table and pictures."""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rgtg_hf.cli.errors import blame_input
from rgtg_hf.evaluation.accuracy import accuracy_by_fraction
from rgtg_hf.evaluation.chart import Series, draw_series
from rgtg_hf.evaluation.frontier import FrontierPoint, compare_at_divergence
from rgtg_hf.evaluation.gold_models import Gold, rate
from rgtg_hf.evaluation.methods import METHODS
from rgtg_hf.evaluation.prompts import last_message
from rgtg_hf.evaluation.report import describe_hardware, describe_versions, find_commit, write_json
from rgtg_hf.evaluation.sampling import SampledResponses
from rgtg_hf.evaluation.summary import COLUMNS, MethodRun, MethodSummary, markdown_table, summarize
from rgtg_hf.files import write_whole

__all__ = ["write_report"]

_PACKAGES = ["rgtg-hf", "torch", "transformers", "peft", "sacrebleu", "textstat", "vaderSentiment"]
_TARGETS = [0.5, 1.0, 2.0, 5.0, 10.0]  # nats per response

Runs = dict[str, dict[float, MethodRun]]  # method -> strength -> run, weakest first


def write_report(
    folder: Path, options: argparse.Namespace, prompts: Sequence[Any], gold: Gold, second: Gold | None = None
) -> None:
    """Judges the responses in `texts.jsonl` and writes the report beside them.

    Args:
        folder: The output folder.
        options: The options of the command.
        prompts: All prompts.
        gold: The gold reward.
        second: A second judge.

    Raises:
        UserError: If a judge does not return one number per response.
    """
    from rich.console import Console

    judges = {"gold": gold} if second is None else {"gold": gold, "second_gold": second}
    runs = _read(folder / "texts.jsonl", [last_message(prompt) for prompt in prompts], judges, options)
    plain = runs["policy"][0.0]
    rows = [
        summarize(method, strength, [run], [plain], kl_is_bound=METHODS[method].kl_is_bound)
        for method, of_method in runs.items()
        for strength, run in of_method.items()
    ]
    equal = compare_at_divergence(_curves(runs), _TARGETS)
    accuracy = _accuracy(options)
    _draw(folder, runs, rows, options.gold, accuracy)
    settings = {name: value for name, value in vars(options).items() if name not in ("output", "device")}
    write_json(
        folder / "report.json",
        rows,
        at_equal_kl=equal,
        accuracy_by_fraction_read=accuracy,
        **_rewards(runs),
        settings={name: _without_place(value) for name, value in settings.items()},
        prompts=len(prompts),
        versions=describe_versions(_PACKAGES),
        hardware=describe_hardware(),
        commit=find_commit(Path(__file__).parent),
    )
    write_whole(folder / "report.md", _markdown(markdown_table(rows), equal, options, len(prompts)))
    Console(highlight=False).print(_terminal_table(rows))
    if overfit := [f"{row.method} {row.strength:g}" for row in rows if row.overfits]:
        Console(stderr=True, highlight=False).print(
            f"[bold]Warning:[/bold] the gold reward rises and the second one falls for: {', '.join(overfit)}. They "
            "may have found what only the first judge likes; a weaker one is safer"
        )
    Console(stderr=True, highlight=False).print(
        f"Written to {folder}: report.md with all measures, report.json, texts.jsonl and the pictures"
    )


def _terminal_table(rows: Sequence[MethodSummary]) -> Any:
    """The main figures of each method, narrow enough for a terminal."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False, caption="± is one standard error; ≤ marks a bound", caption_style="")
    for title in ("method", "strength", "gold", "gain", "KL, nats", "tokens/s"):
        table.add_column(title, justify="left" if title == "method" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.method,
            COLUMNS["strength"](row),
            _with_error(row.gold, row.gold_se),
            _with_error(row.gain, row.gain_se, "+") if row.method != "policy" else "",
            COLUMNS["KL"](row),
            COLUMNS["tokens/s"](row),
        )
    return table


def _with_error(mean: float, error: float, sign: str = "") -> str:
    """A mean and its standard error, both with the decimals that give the error two digits, three at the most."""
    decimals = min(3, max(0, 1 - math.floor(math.log10(error)))) if error > 0 else 2
    return f"{mean:{sign}.{decimals}f} ± {error:.{decimals}f}"


def _rewards(runs: Runs) -> dict[str, dict[str, list[float]]]:
    """The rewards of each response by each judge, by method and strength."""
    every = {
        f"{method} {strength:g}": run for method, of_method in runs.items() for strength, run in of_method.items()
    }
    rewards = {"gold": {name: run.gold for name, run in every.items()}}
    second = {name: run.second for name, run in every.items() if run.second is not None}
    return rewards | ({"second_gold": second} if second else {})


def _read(file: Path, prompts: list[str], judges: dict[str, Gold], options: argparse.Namespace) -> Runs:
    """The responses, and what the judges say of them. Judges go by the option that names them."""
    rows: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows[row["method"], row["strength"]].append(row)  # in the order of the prompts
    runs: Runs = defaultdict(dict)
    for (method, strength), of_method in _shown(rows.items(), "judging"):
        texts = [row["response"] for row in of_method]
        judged = {}
        for option, judge in judges.items():
            with blame_input(f"--{option}: {getattr(options, option)} cannot be used", (ValueError,)):
                judged[option] = rate(judge, prompts, texts)
        steering = [row["steering_reward"] for row in of_method]
        sampled = SampledResponses(
            texts=texts,
            divergences=[row["kl"] for row in of_method],
            tokens=sum(row["tokens"] for row in of_method),
            seconds=sum(row["seconds"] for row in of_method),
            ids=[row["ids"] for row in of_method],
            log_likelihoods=[row["log_likelihood"] for row in of_method],
            reward_model_tokens=round(sum(row["reward_model_tokens"] for row in of_method)),
        )
        runs[method][strength] = MethodRun(
            sampled, judged["gold"], None if None in steering else steering, judged.get("second_gold")
        )
    return runs


def _curves(runs: Runs) -> dict[str, list[FrontierPoint]]:
    """The methods whose strengths form a line from the policy on. The others are compared with the first, `pargs`."""
    unguided = FrontierPoint(0.0, runs["policy"][0.0].gold)
    return {
        method: [
            unguided,
            *(FrontierPoint(fmean(run.sampled.divergences), run.gold) for run in runs[method].values()),
        ]
        for method, kind in METHODS.items()
        if kind.on_frontier and method in runs
    }


def _accuracy(options: argparse.Namespace) -> dict[str, Any]:
    """The accuracy of both reward models on held-out pairs by fraction read; empty without pairs."""
    if not options.pairs:
        return {}
    from rgtg_hf.cli.evaluate.evaluate_models import load_contestants
    from rgtg_hf.cli.evaluate.evaluate_pairs import read_pairs

    contestants = load_contestants(options)
    pairs = read_pairs(options.pairs, contestants.tokenizer)
    models = {"prefix-trained": contestants.reward_model, "full-sequence": contestants.full_reward_model}
    given = [(name, model) for name, model in models.items() if model is not None]
    return {
        name: {"all": accuracy_by_fraction(model, pairs), "of like length": _similar_length(model, pairs)}
        for name, model in _shown(given, "ranking held-out pairs")
    }


def _shown(work: Collection[Any], description: str) -> Iterable[Any]:
    """Adds a progress bar, because a large judge takes minutes."""
    from rich.console import Console
    from rich.progress import track

    return track(work, description=description, console=Console(stderr=True), transient=True)


def _similar_length(model: Any, pairs: Any) -> dict[str, Any] | None:
    try:
        return accuracy_by_fraction(model, pairs, max_gap=0.1)
    except ValueError:
        return None


def _draw(folder: Path, runs: Runs, rows: list[MethodSummary], gold: str, accuracy: dict[str, Any]) -> None:
    policy = next(row for row in rows if row.method == "policy")
    frontier, speed = [], []
    for method in runs:
        kind = METHODS[method]
        points = [row for row in rows if row.method == method]
        timed = [(row.tokens_per_s, row.gold) for row in points if row.tokens_per_s is not None]
        speed.append(Series(kind.name, [x for x, _ in timed], [y for _, y in timed], line=False))
        if kind.needs:
            joined = [policy, *points] if kind.on_frontier else points
            name = kind.name + (" (KL: bound)" if kind.kl_is_bound else "")
            errors = [row.gold_se for row in joined]
            line = kind.on_frontier or kind.kl_is_bound
            frontier.append(
                Series(
                    name, [row.kl for row in joined], [row.gold for row in joined], errors, (), line, kind.kl_is_bound
                )
            )
    pictures = {
        "reward_vs_kl": (frontier, "Gold reward and divergence", "KL to the policy, nats per response", False),
        "reward_vs_speed": (speed, "Gold reward and speed", "generated tokens per second", True),
    }
    for file, (series, title, x_name, log_x) in pictures.items():
        if series:
            y_name = f"gold reward ({_without_place(gold)})"
            draw_series(series, folder / f"{file}.png", title=title, x_name=x_name, y_name=y_name, log_x=log_x)
    if accuracy:
        curves = [(name, of_model["all"]) for name, of_model in accuracy.items()]
        draw_series(
            [Series(name, of["fraction_read"], of["accuracy"], of["standard_error"]) for name, of in curves],
            folder / "accuracy_vs_fraction.png",
            title="Held-out pairs ranked correctly",
            x_name="fraction of the responses read",
            y_name="accuracy ± standard error",
        )


def _markdown(table: str, equal: list[dict[str, Any]], options: argparse.Namespace, prompts: int) -> str:
    lines = [
        f"# Evaluation on {prompts} prompts\n",
        f"Gold reward: {_without_place(options.gold)}. top_k {options.top_k}, at most {options.max_new_tokens} "
        f"tokens, seed {options.seed}. ± is the standard error over prompts; intervals are paired bootstraps over "
        "prompts. KL is in nats per response, to the policy with the same top_k; ≤ marks a bound. RM tokens are "
        "reward-model tokens per generated token.\n",
        table,
    ]
    if options.second_gold:
        lines.append(
            f"Second gold reward: {_without_place(options.second_gold)}. Where it falls while the first rises, a "
            "method may have found what only the first judge likes.\n"
        )
    if equal:
        lines += ["## At equal divergence\n", "Gold reward, interpolated between the two nearest strengths.\n"]
        names = list(dict.fromkeys(name for row in equal for name in row if name != "kl"))
        cells = [["KL", *names], ["---"] * (len(names) + 1)]
        cells += [[f"{row['kl']:g}", *(_cell(row.get(name)) for name in names)] for row in equal]
        lines.append("".join(f"| {' | '.join(line)} |\n" for line in cells))
        if any("behind" in row.get(name, {}) for row in equal for name in names):
            lines.append(f"In brackets: the distance behind {names[0]}, with its 95 % interval.\n")
    return "\n".join(lines)


def _cell(entry: dict[str, float] | None) -> str:
    if entry is None:
        return ""
    text = f"{entry['gold']:.3g} ± {entry['gold_se']:.2g}"
    if "behind" in entry:
        text += f" ({entry['behind']:+.2g} [{entry['behind_low']:+.2g}, {entry['behind_high']:+.2g}])"
    return text


def _without_place(value: Any) -> Any:
    """The last part of a path, because a report must not show private folders. Other values stay as they are."""
    return Path(value).name if isinstance(value, str) and Path(value).expanduser().exists() else value
