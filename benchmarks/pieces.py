"""Figures of finished pieces: kept in one file, and put together over seeds."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.estimates import difference, estimate, mean_curve
from benchmarks.tasks import TASKS
from rgtg_hf.cli.lines import json_lines
from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence
from rgtg_hf.evaluation.statistics import bootstrap_interval
from rgtg_hf.evaluation.text_metrics import distinct_n, perplexity, repetition
from rgtg_hf.files import write_whole

__all__ = ["Shown", "compare_at", "gold_at", "keep_figures", "rows_of"]

_MEASURES = ("perplexity", "distinct_2", "repetition", "length")
_KEPT = ("method", "seed", "strength", "commit", "tokens", "seconds")

Piece = dict[str, Any]


class Shown(NamedTuple):
    """How a method is shown. Texts have `{n}` where its strength stands.

    Attributes:
        name: Its name.
        policy_rows: Rows of a prompt in the policy's cache.
        reward_rows: Rows of a prompt in the reward model's cache.
        bound: Whether its divergence is an upper bound.
        strength: Its setting.
        by_order: Whether strengths differ between seeds, so that they are told by their order.
    """

    name: str
    policy_rows: str = "1"
    reward_rows: str = "1"
    bound: bool = False
    strength: str = ""
    by_order: bool = False


def keep_figures(
    folder: Path, tasks: Iterable[str], file: Path, methods: Container[str], *, texts: bool = False
) -> list[Piece]:
    """Adds the figures of the pieces in a folder to those kept before, and returns all, one for each piece.

    The texts of a piece are not kept. `gold` has a value for each prompt.

    Args:
        folder: The folder of the pieces.
        tasks: Keys of `TASKS`.
        file: Where figures are kept.
        methods: The methods whose pieces are added.
        texts: Whether to measure the texts too: a second gold reward for each prompt, length, perplexity, variety.
    """
    kept = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    figures = {_key(piece): piece for piece in kept}
    for task in tasks:
        for path in (folder / "samples").glob("*.json"):
            if path.name.startswith((f"{task}-", "any-")):  # the policy's own responses are for any task
                found = json.loads(path.read_text(encoding="utf-8"))
                piece = {"task": task} | {name: found[name] for name in _KEPT} | {"kl": fmean(found["divergences"])}
                if found["method"] in methods and _key(piece) not in figures:
                    piece["gold"] = [round(value, 4) for value in TASKS[task].gold(found["texts"])]
                    figures[_key(piece)] = piece | (_measures(task, found) if texts else {})
    pieces = [figures[key] for key in sorted(figures)]
    write_whole(file, json_lines(pieces))
    return pieces


def _measures(task: str, found: Piece) -> Piece:
    second = [round(value, 4) for value in TASKS[task].second(found["texts"])]
    lengths = list(map(len, found["ids"]))
    measured = {
        "perplexity": perplexity(found["log_likelihoods"], lengths),
        "distinct_2": distinct_n(found["texts"], 2),
        "repetition": repetition(found["texts"]),
        "length": fmean(lengths),
    }
    return {"second": second} | {name: round(value, 4) for name, value in measured.items()}


def _key(piece: Piece) -> tuple[str, str, int, float]:
    return piece["task"], piece["method"], piece["seed"], piece["strength"]


def rows_of(figures: Iterable[Piece], task: str, shown: Mapping[str, Shown]) -> list[dict[str, Any]]:
    """A row for each method and strength, over the seeds that are there.

    Args:
        figures: What [`keep_figures`] returned.
        task: The task.
        shown: The methods, in the order of the rows. `policy` is one of them.
    """
    runs: dict[str, dict[int, list[Piece]]] = defaultdict(lambda: defaultdict(list))
    for piece in figures:
        if piece["task"] == task:
            runs[piece["method"]][piece["seed"]].append(piece)
    plain = mean_curve(piece["gold"] for of_seed in runs["policy"].values() for piece in of_seed)
    rows = []
    for method, look in shown.items():
        by_strength: dict[float, dict[int, Any]] = defaultdict(dict)
        for seed, of_seed in runs.get(method, {}).items():
            for place, piece in enumerate(of_seed):
                key = 0.0 if method == "policy" else float(place) if look.by_order else piece["strength"]
                by_strength[key].setdefault(seed, []).append(piece)
        for of_strength in by_strength.values():
            found = [piece for pieces in of_strength.values() for piece in pieces]
            gold = mean_curve(piece["gold"] for piece in found)
            # A slow method may have had every nth prompt only.
            gain = [one - other for one, other in zip(gold, plain[:: len(plain) // len(gold)], strict=True)]
            n = round(fmean(piece["strength"] for piece in found), 2)
            measured = [name for name in _MEASURES if name in found[0]]
            if "second" in found[0]:
                second = {"second": estimate(mean_curve(piece["second"] for piece in found))}
            else:
                second = {}
            rows.append(
                second
                | {name: fmean(piece[name] for piece in found) for name in measured}
                | {
                    "method": method,
                    "name": look.name,
                    "strength": n,
                    "setting": "" if method == "policy" else look.strength.format(n=n),
                    "seeds": sorted(of_strength),
                    "gold": estimate(gold),
                    "gain: 95 %": list(bootstrap_interval(gain)),
                    "gold by seed": [
                        fmean(fmean(piece["gold"]) for piece in pieces) for _, pieces in sorted(of_strength.items())
                    ],
                    "kl": fmean(piece["kl"] for piece in found),
                    "kl is a bound": look.bound,
                    "tokens_per_s": sum(piece["tokens"] for piece in found) / sum(piece["seconds"] for piece in found),
                    "rows in the caches": [rows.format(n=n) for rows in (look.policy_rows, look.reward_rows)],
                }
            )
    return rows


def gold_at(
    figures: Iterable[Piece], task: str, method: str, kl: float, judge: str = "gold"
) -> dict[int, list[float]]:
    """The gold reward of each prompt at a divergence, between the two strengths of a method that lie around it.

    Args:
        figures: What [`keep_figures`] returned.
        task: The task.
        method: A method with several strengths. The policy, at no divergence, is one more.
        kl: Nats per response.
        judge: `gold`, or `second` for the second gold reward.

    Returns:
        By seed; without the seeds whose strengths do not reach that divergence.
    """
    curves: dict[int, list[FrontierPoint]] = defaultdict(list)
    plain: dict[int, list[list[float]]] = defaultdict(list)
    for piece in figures:
        if piece["task"] == task and piece["method"] == method:
            curves[piece["seed"]].append(FrontierPoint(piece["kl"], piece[judge]))
        elif piece["task"] == task and piece["method"] == "policy":
            plain[piece["seed"]].append(piece[judge])
    found = {
        seed: at_divergence([FrontierPoint(0.0, mean_curve(plain[seed])), *curve], kl)
        for seed, curve in curves.items()
    }
    return {seed: gold for seed, gold in found.items() if gold is not None}


def compare_at(
    figures: Sequence[Piece],
    task: str,
    divergences: Iterable[float],
    methods: Sequence[str],
    pairs: Iterable[tuple[str, str]],
    judges: Iterable[str] = ("gold",),
) -> list[dict[str, Any]]:
    """The gold rewards of methods at equal divergence, and their differences over the seeds that both have.

    Args:
        figures: What [`keep_figures`] returned.
        task: The task.
        divergences: Nats per response, a row for each.
        methods: Methods with several strengths.
        pairs: Pairs of them; the row says how far the first is ahead of the second.
        judges: `gold`, `second` or both, each with rows of its own.
    """
    rows = []
    for kl, judge in product(divergences, judges):
        found = {method: gold_at(figures, task, method, kl, judge) for method in methods}
        row: dict[str, Any] = {"kl": kl, "judge": judge}
        for method, of_seed in found.items():
            if of_seed:
                row |= {method: estimate(mean_curve(of_seed.values())), f"{method}: seeds": sorted(of_seed)}
        for one, other in pairs:
            row |= difference(found[one], found[other], f"{one} - {other}")
        rows.append(row)
    return rows
