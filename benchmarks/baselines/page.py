"""The table and the pictures of docs/results.md, from the comparison of the field's methods."""

from __future__ import annotations

import json
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.frontier_picture import draw_frontier
from benchmarks.markdown_tables import divergence, each_signed, fill, interval, markdown_table, with_error
from benchmarks.record import RESULTS, ROOT

__all__ = ["write_page"]

PAGE = ROOT / "docs" / "results.md"
PICTURES = ROOT / "docs" / "assets"
SPEEDS = RESULTS / "baselines_speed.json"  # of benchmarks/baselines/speed.py
# At strength 1 these need no policy beside them. The benchmark has one for the divergence.
NO_POLICY = (("prompted", 1.0), ("dpo", 1.0))
AS_IT_IS = ("policy", "prompted")  # nobody sets a strength
AT = 2.0  # nats, in the table of all tasks
# A picture has room for eight methods. The others are in the tables.
PICTURED = (
    *("prompted", "advantages", "value_b0", "pargs_rollouts", "args", "dpo"),
    *("best_of_n_value", "value_guided_best_of_n"),
)


def write_page(results: dict[str, Any], first: str) -> None:
    """Writes the numbers of all tasks into the page, and draws their pictures.

    Args:
        results: The results of [`benchmarks.baselines.table`], by task.
        first: The method that the others are compared with.
    """
    measured = json.loads(SPEEDS.read_text(encoding="utf-8"))["results"] if SPEEDS.is_file() else []
    for task, result in results.items():
        of_task = [row for row in measured if row["task"] == task]
        for row in result["rows"]:
            row["speed"] = speed_of(of_task, row)
    tables = {"results": both_tasks_table(results)}
    for task, result in results.items():
        draw(task, result)
        tables[f"{task}-equal"] = equal_table(result, first)
        tables[f"{task}-seeds"] = seeds_table(result, first)
        tables[f"{task}-rows"] = rows_table(result)
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


def speed_of(measured: list[dict[str, Any]], row: dict[str, Any]) -> float | None:
    """Tokens per second of a method as a share of the policy's. Only of a search does it depend on the strength."""
    if (row["method"], row["strength"]) in NO_POLICY:
        return 1.0
    of_method = {own["strength"]: own["of the policy's"] for own in measured if own["method"] == row["method"]}
    if row["kl is a bound"]:
        return of_method.get(row["strength"])
    return median(of_method.values()) if of_method else None


def both_tasks_table(results: dict[str, Any]) -> str:
    """Both judges of every task: of methods with a strength at one divergence, of the others at theirs."""
    head = ["method"]
    for result in results.values():
        head += [result["gold"], result["second"]]
    methods = {row["method"]: row["name"] for result in results.values() for row in result["rows"]}
    lines = [[*head, "speed"]]
    for method, name in methods.items():
        cells, speeds = [], []
        for result in results.values():
            golds, speed = _at_or_of(result, method)
            cells += golds
            speeds += [] if speed is None else [_share(speed)]
        if any(cells):
            lines.append([name, *cells, " and ".join(dict.fromkeys(speeds))])
    return markdown_table(lines)


def _at_or_of(result: dict[str, Any], method: str) -> tuple[list[str], float | None]:
    """Gold and second reward at the table's divergence, or of the row nearest to it, and the speed.

    The latter where divergence is only bounded, or where users would not set a strength.
    """
    at = {row["judge"]: row for row in result["at equal divergence"] if row["kl"] == AT}
    rows = _rows(result, method)
    if method in at["gold"] and method not in AS_IT_IS:
        strongest = max(rows, key=lambda row: row["strength"])
        return [with_error(at[judge][method]) for judge in ("gold", "second")], strongest["speed"]
    rows = [row for row in rows if method in AS_IT_IS or row["kl is a bound"]]
    if not rows:
        return ["", ""], None
    row = min(rows, key=lambda row: abs(row["kl"] - AT))
    where = "" if method == "policy" else f" at {divergence(row)}"
    return [with_error(row["gold"]) + where, with_error(row["second"])], row["speed"]


def equal_table(result: dict[str, Any], first: str) -> str:
    """The gold rewards of the methods with a strength at equal divergence, and how far each is ahead of the first."""
    return _by_divergence(result, lambda method, rows: [_with_lead(row, method, first) for row in rows])


def seeds_table(result: dict[str, Any], first: str) -> str:
    """How far the methods of several training seeds are ahead of the first one, seed by seed."""

    def cells(method: str, rows: list[dict[str, Any]]) -> list[str]:
        of_seeds = [row.get(f"{method} - {first}: by seed", []) for row in rows]
        return list(map(each_signed, of_seeds)) if max(map(len, of_seeds)) > 1 else []

    return _by_divergence(result, cells)


def _by_divergence(result: dict[str, Any], cells: Callable[[str, list[dict[str, Any]]], list[str]]) -> str:
    """A column for each divergence, and a line for each method that has a cell."""
    at = [row for row in result["at equal divergence"] if row["judge"] == "gold"]
    lines = [["method", *(f"{row['kl']:g} nat{'s' * (row['kl'] > 1)}" for row in at)]]
    for method, name in {row["method"]: row["name"] for row in result["rows"]}.items():
        if any(found := cells(method, at)):
            lines.append([name, *found])
    return markdown_table(lines)


def _with_lead(row: dict[str, Any], method: str, first: str) -> str:
    key = f"{method} - {first}: 95 %"
    ahead = f" ({interval(row[key])})" if key in row else ""
    return with_error(row[method]) + ahead if method in row else ""


def rows_table(result: dict[str, Any]) -> str:
    """Everything that was measured, a line for each method and strength."""
    head = ["method", "setting", "gold", "above the policy, 95 %", result["second"], "KL", "speed"]
    lines = [[*head, "perplexity", "distinct-2", "length", "seeds"]]
    for row in result["rows"]:
        cells = [row["name"], row["setting"], with_error(row["gold"])]
        cells += ["" if row["method"] == "policy" else interval(row["gain: 95 %"]), with_error(row["second"])]
        cells += [divergence(row), _share(row["speed"]), f"{row['perplexity']:.1f}"]
        lines.append([*cells, f"{row['distinct_2']:.2f}", f"{row['length']:.0f}", str(len(row["seeds"]))])
    return markdown_table(lines)


def draw(task: str, result: dict[str, Any]) -> None:
    """Draws gold reward over divergence."""
    found = [sorted(_rows(result, method), key=lambda row: row["kl"]) for method in PICTURED]
    lines = {rows[0]["name"]: rows for rows in found if rows}
    (policy,) = _rows(result, "policy")
    draw_frontier(lines, PICTURES / f"results_{task}.svg", gold=result["gold"], policy=policy)


def _rows(result: dict[str, Any], method: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["method"] == method]


def _share(speed: float | None) -> str:
    return "" if speed is None else f"{100 * speed:.0f} %"
