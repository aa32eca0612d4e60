"""Tables and pictures from the pieces of table.py."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.estimates import difference, estimate, mean_curve
from benchmarks.tasks import TASKS
from rgtg_hf.evaluation.chart import Series, draw_series
from rgtg_hf.evaluation.frontier import FrontierPoint, at_divergence
from rgtg_hf.evaluation.sampling import SampledResponses
from rgtg_hf.evaluation.summary import MethodRun, MethodSummary, markdown_table, summarize

__all__ = ["NAMES", "curve", "draw_task", "load", "plain_gold", "report_task"]

TARGETS = [0.5, 1.0, 2.0, 3.0, 5.0, 8.0]  # nats per response
NAMES = {
    "policy": "policy, sampled",
    "policy_greedy": "policy, greedy",
    "args": "ARGS",
    "args_greedy": "ARGS, greedy",
    "pargs": "PARGS",
    "pargs_greedy": "PARGS-G",
    "best_of_n_full": "best-of-n, full-sequence RM",
    "best_of_n_prefix": "best-of-n, prefix RM",
    "blockwise": "block-wise best-of-4, prefix RM",
    "head": "steering head",
    "dpo": "DPO",
}
SWEPT = ("pargs", "args", "dpo", "head")  # their strengths form a curve that starts at the policy
BOUNDED = ("best_of_n_full", "best_of_n_prefix", "blockwise")
_PIECE = {"texts", "divergences", "tokens", "seconds", "ids", "log_likelihoods", "reward_model_tokens"}

Runs = dict[str, dict[int, list[tuple[float, MethodRun]]]]  # method -> seed -> (strength, run), weakest first


def report_task(folder: Path, task: str, output: Path) -> dict[str, Any] | None:
    """Summarizes a task and draws its pictures. Returns its part of the result, or None if it has no pieces."""
    runs = load(folder, task)
    plain = {seed: of_seed[0][1] for seed, of_seed in runs.get("policy", {}).items()}
    if not plain:
        return None
    rows = _rows(runs, plain)
    equal = [row for target in TARGETS if (row := _at_equal(runs, plain, target))]
    against = _against_bounded(runs, plain)
    name = TASKS[task].gold_name
    print(f"\n## {task}: {name}\n\n{markdown_table(rows)}")
    for row in equal + against:
        print({key: _rounded(value) for key, value in row.items()})
    result = {
        "gold": name,
        "rows": [asdict(row) for row in rows],
        "table": markdown_table(rows),
        "at_equal_kl": equal,
        "pargs_at_the_bound_of": against,
        "texts": _examples(runs),
        "trained": {
            file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob(f"{task}-*-*.json"))
        },
        "drawn_at_commit": _commits(folder, task),
        "betas": {
            file.stem: json.loads(file.read_text(encoding="utf-8"))
            for file in sorted((folder / "pilots").glob(f"{task}-*.json"))
        },
    }
    draw_task(result, task, output)
    return result


def load(folder: Path, task: str) -> Runs:
    found: dict[str, dict[int, list[tuple[float, MethodRun]]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted((folder / "samples").glob("*.json")):
        if not file.name.startswith((f"{task}-", "any-")):
            continue
        piece = json.loads(file.read_text(encoding="utf-8"))
        sampled = SampledResponses(**{key: piece[key] for key in _PIECE})
        run = MethodRun(sampled, TASKS[task].gold(sampled.texts), piece.get("steering_reward"))
        found[piece["method"]][piece["seed"]].append((piece["strength"], run))
    for of_method in found.values():
        for of_seed in of_method.values():
            of_seed.sort(key=lambda pair: pair[0])
    return found


def _commits(folder: Path, task: str) -> dict[str, list[str]]:
    """The pieces by the commit of the code that sampled them."""
    by_commit: dict[str, list[str]] = defaultdict(list)
    for file in sorted((folder / "samples").glob("*.json")):
        if file.name.startswith((f"{task}-", "any-")):
            by_commit[json.loads(file.read_text(encoding="utf-8"))["commit"]].append(file.stem)
    return by_commit


def _rows(runs: Runs, plain: dict[int, MethodRun]) -> list[MethodSummary]:
    """One row per method and strength. Betas differ between seeds, so strengths are matched by order."""
    rows = []
    for method, name in NAMES.items():
        of_method = runs.get(method, {})
        levels = 1 if method == "policy" else max((len(of_seed) for of_seed in of_method.values()), default=0)
        for level in range(levels):
            at = {
                seed: of_seed[level] for seed, of_seed in of_method.items() if level < len(of_seed) and seed in plain
            }
            if not at:
                continue
            strength = 0.0 if method.startswith("policy") else fmean(value for value, _ in at.values())
            unguided = [plain[seed] for seed in at]
            rows.append(
                summarize(name, strength, [run for _, run in at.values()], unguided, kl_is_bound=method in BOUNDED)
            )
    return rows


def curve(runs: Runs, plain: dict[int, MethodRun], method: str, seed: int, target: float) -> list[float] | None:
    """Gold reward per prompt of the models of one seed at a divergence."""
    points = [FrontierPoint(0.0, plain_gold(plain))]
    points += [FrontierPoint(fmean(run.sampled.divergences), run.gold) for _, run in runs[method].get(seed, [])]
    return at_divergence(points, target)


def plain_gold(plain: dict[int, MethodRun]) -> list[float]:
    # The mean over all seeds: the policy is the same, and the noise of one draw would enter every curve.
    return [fmean(values) for values in zip(*(run.gold for run in plain.values()), strict=True)]


def _at_equal(runs: Runs, plain: dict[int, MethodRun], target: float) -> dict[str, Any]:
    """Gold reward of the swept methods at a divergence, and PARGS minus each, over the seeds that both have."""
    row: dict[str, Any] = {"kl": target}
    by_seed: dict[str, dict[int, list[float]]] = {}
    for method in SWEPT:
        curves = {seed: curve(runs, plain, method, seed, target) for seed in runs.get(method, {})}
        by_seed[method] = {seed: curve for seed, curve in curves.items() if curve is not None}
        if by_seed[method]:
            row[method] = estimate(mean_curve(by_seed[method].values()))
            row[f"{method}: seeds"] = sorted(by_seed[method])
    for other in SWEPT[1:]:
        row |= difference(by_seed["pargs"], by_seed[other], f"pargs - {other}")
    return row if len(row) > 1 else {}


def _against_bounded(runs: Runs, plain: dict[int, MethodRun]) -> list[dict[str, Any]]:
    """PARGS at the upper bound of a method's divergence. The comparison favours PARGS."""
    rows = []
    for method in BOUNDED:
        for level in range(max((len(of_seed) for of_seed in runs.get(method, {}).values()), default=0)):
            of_method = {seed: of_seed[level] for seed, of_seed in runs[method].items() if level < len(of_seed)}
            bound = fmean(fmean(run.sampled.divergences) for _, run in of_method.values())
            pargs = {seed: curve(runs, plain, "pargs", seed, bound) for seed in runs.get("pargs", {})}
            theirs = {seed: run.gold for seed, (_, run) in of_method.items()}
            ours = {seed: curve for seed, curve in pargs.items() if curve is not None}
            row = {"method": NAMES[method], "n": next(iter(of_method.values()))[0], "kl at most": bound}
            row |= {"gold": estimate(mean_curve(theirs.values()))}
            rows.append(row | difference(ours, theirs, "pargs - it"))
    return rows


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value


def _examples(runs: Runs) -> list[dict[str, str]]:
    """The responses to the first prompts by each method's first seed at its middle strength, not chosen by hand."""
    texts = {}
    for method, name in NAMES.items():
        if of_method := runs.get(method):
            of_seed = of_method[min(of_method)]
            texts[name] = of_seed[0 if method == "policy" else len(of_seed) // 2][1].sampled.texts
    return [{name: of_method[place] for name, of_method in texts.items()} for place in range(3)]


def draw_task(result: dict[str, Any], task: str, output: Path) -> None:
    """Draws the two pictures of a task from its part of the result."""
    rows = [MethodSummary(**row) for row in result["rows"]]
    by_name: dict[str, list[MethodSummary]] = defaultdict(list)
    for row in rows:
        by_name[row.method].append(row)
    policy = by_name[NAMES["policy"]][0]
    frontier, speed = [], []
    for method, name in NAMES.items():
        if method.endswith("greedy") or method == "policy" or name not in by_name:
            continue
        points = by_name[name]
        joined = [policy, *points] if method in SWEPT else points
        frontier.append(
            Series(
                name + (" (KL: bound)" if method in BOUNDED else ""),
                [row.kl for row in joined],
                [row.gold for row in joined],
                [row.gold_se for row in joined],
                dashed=method in BOUNDED,
            )
        )
        timed = [row for row in points if row.tokens_per_s]
        speed.append(Series(name, [row.tokens_per_s for row in timed], [row.gold for row in timed], line=False))
    speed.append(Series(NAMES["policy"], [policy.tokens_per_s], [policy.gold], line=False))
    draw_series(
        frontier,
        output / f"paper_table_{task}_reward_vs_kl.svg",
        title=f"Gold reward and divergence, {task}",
        x_name="KL to the policy, nats per response",
        y_name=f"{result['gold']}, mean ± standard error",
    )
    draw_series(
        speed,
        output / f"paper_table_{task}_reward_vs_speed.svg",
        title=f"Gold reward and speed, {task}",
        x_name="generated tokens per second",
        y_name=f"{result['gold']}, mean",
        log_x=True,
    )
