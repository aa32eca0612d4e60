"""Tables and pictures of the comparison of the field's methods, for docs/results.md."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.paper.docs import fill, markdown_table
from benchmarks.record import ROOT
from rgtg_hf.evaluation.chart import Series, draw_series

__all__ = ["write_page"]

PAGE = ROOT / "docs" / "results.md"
PICTURES = ROOT / "docs" / "assets"


def write_page(results: dict[str, Any]) -> None:
    """Writes the numbers of every task into the page, and draws their pictures."""
    tables = {}
    for task, result in results.items():
        if result["rows"]:
            draw(task, result, PICTURES)
            tables[f"{task}-equal"] = equal_table(result)
            tables[f"{task}-rows"] = rows_table(result)
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


def equal_table(result: dict[str, Any]) -> str:
    """The gold rewards of the methods with a strength at equal divergence, a line for each method."""
    names = {row["method"]: row["name"] for row in result["rows"]}
    at = {(row["kl"], row["judge"]): row for row in result["at equal divergence"]}
    divergences = sorted({kl for kl, _ in at})
    head = ["method", *(f"at {kl:g} nat{'s' if kl > 1 else ''}" for kl in divergences)]
    head += [f"{result['second']} at {kl:g}" for kl in (2.0, 4.0)]
    lines = [head, ["---"] * len(head)]
    for method, name in names.items():
        golds = [_with_error(at[kl, "gold"].get(method)) for kl in divergences]
        if any(golds):
            seconds = [_with_error(at[kl, "second"].get(method)) for kl in (2.0, 4.0)]
            lines.append([name, *golds, *seconds])
    return markdown_table(lines)


def rows_table(result: dict[str, Any]) -> str:
    """Everything that was measured, a line for each method and strength."""
    lines = [["method", "setting", "gold", "above the policy, 95 %", result["second"], "KL", "tokens/s"]]
    lines[0] += ["perplexity", "distinct-2", "length"]
    lines.append(["---"] * len(lines[0]))
    for row in result["rows"]:
        low, high = row["gain: 95 %"]
        lines.append(
            [
                row["name"],
                row["setting"],
                _with_error(row["gold"]),
                "" if row["method"] == "policy" else f"{low:+.2g} to {high:+.2g}",
                _with_error(row["second"]),
                f"{'≤ ' * row['kl is a bound']}{row['kl']:.2f}",
                f"{row['tokens_per_s']:.0f}",
                f"{row['perplexity']:.1f}",
                f"{row['distinct_2']:.2f}",
                f"{row['length']:.0f}",
            ]
        )
    return markdown_table(lines)


def draw(task: str, result: dict[str, Any], folder: Path) -> None:
    """Draws gold reward over divergence."""
    by_method: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in result["rows"]:
        by_method[row["method"]].append(row)
    (policy,) = by_method.pop("policy")
    series = []
    for rows in by_method.values():
        bound = rows[0]["kl is a bound"]
        points = rows if bound else [policy, *rows]
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
        folder / f"results_{task}.svg",
        title=f"Gold reward and divergence, {task}",
        x_name="KL to the policy, nats per response",
        y_name=f"{result['gold']}, mean ± standard error",
    )


def _with_error(estimate: list[float] | None) -> str:
    return "" if estimate is None else f"{estimate[0]:.3g} ± {estimate[1]:.2g}"
