"""Writes the result file, and the figure and tables of docs/performance.md, from the cells of speed.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

from benchmarks.markdown_tables import fill, markdown_table
from benchmarks.record import RESULTS, ROOT

PAGE = ROOT / "docs" / "performance.md"
FIGURE = ROOT / "docs" / "assets" / "performance.svg"
RESULT = RESULTS / "decode.json"
COMPARED = {"plain", "floor", "hand loop", "siblings", "row per candidate"}
BY_LENGTH = "to_floor_by_length"
HEAD = ["reward model", "batch", "prompt", "k"]
POINT = ("policy", "device", "dtype", "reward_model", "batch", "prompt", "top_k")


def report(folder: Path) -> None:
    """Writes all of them.

    Raises:
        SystemExit: If there are no cells, or a cell was measured with uncommitted changes.
    """
    named = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    if not named:
        raise SystemExit(f"No cells in {folder}: measure some first.")
    if dirty := [name for name, cell in named.items() if cell["uncommitted_changes"]]:
        raise SystemExit(f"Measured with uncommitted changes: {dirty}. Commit, delete these cells, and measure again.")
    cells = sorted(named.values(), key=lambda cell: [str(cell[name]).rjust(6) for name in POINT])
    RESULT.write_text(json.dumps({"cells": cells}, indent=2) + "\n", encoding="utf-8")
    long = [cell for cell in cells if BY_LENGTH in cell["ways"].get("siblings", {})]
    points = merged([cell for cell in cells if cell not in long])
    steps = [cell for cell in points if "siblings" in cell["ways"]]
    draw(steps)
    others = others_table([cell for cell in points if set(cell["ways"]) - COMPARED])
    tables = {"steps": steps_table(steps), "long": long_table(long), "others": others}
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    print(f"{len(cells)} cells: {RESULT.name}, {FIGURE.name}, {PAGE.name}")


def merged(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merges the cells of a point into one with the ways of all its runs. Figures are ratios within a run."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for cell in cells:
        known = found.get(point(cell), {"ways": {}})
        found[point(cell)] = cell | {"ways": known["ways"] | cell["ways"]}
    return list(found.values())


def point(cell: dict[str, Any]) -> tuple[str, ...]:
    """The point that a cell measures."""
    return tuple(str(cell[name]) for name in POINT)


def cells_of(cell: dict[str, Any]) -> list[str]:
    """The first columns of a table."""
    return [f"{cell['reward_model']} layers", str(cell["batch"]), str(cell["prompt"]), str(cell["top_k"])]


def ratio(row: dict[str, Any], key: str) -> str:
    """The median over rounds, and the range."""
    low, high = row[f"{key}_range"]
    return f"{row[key]:.2f} ({low:.2f} to {high:.2f})"


def steps_table(cells: list[dict[str, Any]]) -> str:
    """The table of guided steps and the floor."""
    lines = [[*HEAD, "plain, ms", "floor, ms", "siblings / floor", "hand loop / floor", "row per candidate / floor"]]
    lines[0] += ["cache, MB: siblings", "row per candidate", "peak, MB: siblings", "row per candidate"]
    for cell in cells:
        ways = cell["ways"]
        siblings, rows = ways["siblings"], ways.get("row per candidate")
        line = [*cells_of(cell), f"{ways['plain']['ms']:.0f}", f"{ways['floor']['ms']:.0f}"]
        line += [ratio(siblings, "to_floor"), ratio(ways["hand loop"], "to_floor")]
        line += [f"{rows['to_floor']:.2f}" if rows else ""]
        line += [f"{siblings['cache_mb']:.1f}", f"{rows['cache_mb']:.1f}" if rows else ""]
        line += [f"{siblings['peak_mb']:.0f}", f"{rows['peak_mb']:.0f}" if rows else ""]
        lines.append(line)
    return markdown_table(lines)


def long_table(cells: list[dict[str, Any]]) -> str:
    """The tables of the ratio to the floor along long generations."""
    tables = []
    for cell in cells:
        ratios = {name: row[BY_LENGTH] for name, row in cell["ways"].items() if BY_LENGTH in row and name != "plain"}
        ends = [row["tokens"] for row in ratios["siblings"]]
        shown = [place for place, end in enumerate(ends) if end in (64, 128, 256, 512, 768, 1024)]
        title = f"{cell['reward_model']} layers, batch {cell['batch']}, prompt {cell['prompt']}, k {cell['top_k']}"
        lines = [[f"{title}; tokens up to", *(str(ends[place]) for place in shown)]]
        for name, rows in ratios.items():
            lines.append([f"{name} / floor", *(f"{rows[place]['to_floor']:.2f}" for place in shown)])
        tables.append(markdown_table(lines))
    return "\n".join(tables)


def others_table(cells: list[dict[str, Any]]) -> str:
    """The table of other ways and unguided generate()."""
    names = ["siblings", "steering head", "next-token model", "through text", "whole, one by one", "whole, batched"]
    lines = [[*HEAD, *names]]
    for cell in cells:
        ways = cell["ways"]
        shown = [f"{ways[name]['to_plain']:.2f}" if name in ways else "" for name in names]
        lines.append([*cells_of(cell), *shown])
    return markdown_table(lines)


def draw(cells: list[dict[str, Any]]) -> None:
    """Draws the time of a guided step over the floor, one row per cell."""
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(cells) + 1.4), layout="constrained")
    marks = {
        "siblings": ("o", "#00796b"),
        "hand loop": ("|", "#616161"),
        "row per candidate": ("s", "#ef6c00"),
        "through text": ("D", "#5e35b1"),
        "next-token model": ("^", "#1e88e5"),
        "steering head": ("v", "#43a047"),
    }
    for name, (mark, color) in marks.items():
        at = [(cell["ways"][name]["to_floor"], y) for y, cell in enumerate(cells) if name in cell["ways"]]
        if at:
            axes.scatter(*zip(*at, strict=True), marker=mark, color=color, label=name, s=34, zorder=3)
    axes.axvline(1, color="#9e9e9e", linewidth=1)
    labels = [f"{c['reward_model']} layers, batch {c['batch']}, prompt {c['prompt']}, k {c['top_k']}" for c in cells]
    axes.set_yticks(range(len(cells)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("time of a guided step / floor (plain step + bare pass over k siblings)")
    axes.grid(axis="x", color="#eeeeee")
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1 + 0.9 / (0.42 * len(cells) + 0.6)), frameon=False)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    plt.close(figure)
