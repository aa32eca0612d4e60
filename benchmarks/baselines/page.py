"""The table and the pictures of docs/results.md, from the comparison of the field's methods."""

from __future__ import annotations

from typing import Any

from benchmarks.paper.docs import fill, markdown_table
from benchmarks.record import ROOT
from rgtg_hf.evaluation.chart import Series, draw_series

__all__ = ["write_page"]

PAGE = ROOT / "docs" / "results.md"
PICTURES = ROOT / "docs" / "assets"
AT = 2.0  # nats, in the table of all tasks
# A picture has room for eight. The others are in the tables.
PICTURED = (
    *("prompted", "value_b0", "pargs_rollouts", "head_rollouts", "args", "dpo"),
    *("best_of_n_value", "value_guided_blockwise"),
)


def write_page(results: dict[str, Any]) -> None:
    """Writes the numbers of all tasks into the page, and draws their pictures.

    Args:
        results: The results of [`benchmarks.baselines.table`], by task.
    """
    tables = {"results": both_tasks_table(results)}
    for task, result in results.items():
        draw(task, result)
        tables[f"{task}-equal"] = equal_table(result)
        tables[f"{task}-rows"] = rows_table(result)
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


def both_tasks_table(results: dict[str, Any]) -> str:
    """Both judges of every task: of methods with a strength at one divergence, of the others at theirs."""
    head = ["method"]
    for result in results.values():
        head += [result["gold"], result["second"]]
    methods = {row["method"]: row["name"] for result in results.values() for row in result["rows"]}
    lines = [[*head, "tokens/s"], ["---"] * (len(head) + 1)]
    for method, name in methods.items():
        cells = []
        for result in results.values():
            cells += _at_or_of(result, method)
        if any(cells):
            first = next(result for result in results.values() if _rows(result, method))
            lines.append([name, *cells, f"{_rows(first, method)[0]['tokens_per_s']:.0f}"])
    return markdown_table(lines)


def _at_or_of(result: dict[str, Any], method: str) -> list[str]:
    """Gold and second reward at the table's divergence, or, where it is only bounded, of the row nearest to it."""
    at = {row["judge"]: row for row in result["at equal divergence"] if row["kl"] == AT}
    if method in at["gold"]:
        return [_with_error(at[judge][method]) for judge in ("gold", "second")]
    rows = [row for row in _rows(result, method) if method == "policy" or row["kl is a bound"]]
    if not rows:
        return ["", ""]
    row = min(rows, key=lambda row: abs(row["kl"] - AT))
    where = "" if method == "policy" else f" at {_divergence(row)}"
    return [_with_error(row["gold"]) + where, _with_error(row["second"])]


def equal_table(result: dict[str, Any]) -> str:
    """The gold rewards of the methods with a strength at equal divergence, and how far the value is ahead of each."""
    names = {row["method"]: row["name"] for row in result["rows"]}
    at = [row for row in result["at equal divergence"] if row["judge"] == "gold"]
    lines = [["method", *(f"{row['kl']:g} nat{'s' * (row['kl'] > 1)}" for row in at)]]
    lines.append(["---"] * len(lines[0]))
    for method, name in names.items():
        if any(method in row for row in at):
            lines.append([name, *(_with_lead(row, method) for row in at)])
    return markdown_table(lines)


def _with_lead(row: dict[str, Any], method: str) -> str:
    key = f"value_b0 - {method}: 95 %"
    behind = f" ({row[key][0]:+.2g} to {row[key][1]:+.2g})" if key in row else ""
    return _with_error(row.get(method)) + behind


def rows_table(result: dict[str, Any]) -> str:
    """Everything that was measured, a line for each method and strength."""
    head = ["method", "setting", "gold", "above the policy, 95 %", result["second"], "KL", "tokens/s"]
    lines = [[*head, "perplexity", "distinct-2", "length"]]
    lines.append(["---"] * len(lines[0]))
    for row in result["rows"]:
        low, high = row["gain: 95 %"]
        cells = [row["name"], row["setting"], _with_error(row["gold"])]
        cells += ["" if row["method"] == "policy" else f"{low:+.2g} to {high:+.2g}", _with_error(row["second"])]
        cells += [_divergence(row), f"{row['tokens_per_s']:.0f}", f"{row['perplexity']:.1f}"]
        lines.append([*cells, f"{row['distinct_2']:.2f}", f"{row['length']:.0f}"])
    return markdown_table(lines)


def draw(task: str, result: dict[str, Any]) -> None:
    """Draws gold reward over divergence."""
    (policy,) = _rows(result, "policy")
    series = []
    for method in PICTURED:
        if rows := sorted(_rows(result, method), key=lambda row: row["kl"]):
            bound = rows[0]["kl is a bound"]
            points = rows if bound or method == "prompted" else [policy, *rows]
            series.append(
                Series(
                    rows[0]["name"] + (" (KL: bound)" if bound else ""),
                    [row["kl"] for row in points],
                    [row["gold"][0] for row in points],
                    [row["gold"][1] for row in points],
                    dashed=bound,
                )
            )
    draw_series(
        series,
        PICTURES / f"results_{task}.svg",
        title=f"Gold reward and divergence, {task}",
        x_name="KL to the policy, nats per response",
        y_name=f"{result['gold']}, mean ± standard error",
    )


def _rows(result: dict[str, Any], method: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["method"] == method]


def _divergence(row: dict[str, Any]) -> str:
    return f"{'≤ ' * row['kl is a bound']}{row['kl']:.2f}"


def _with_error(estimate: list[float] | None) -> str:
    return "" if estimate is None else f"{estimate[0]:.3g} ± {estimate[1]:.2g}"
