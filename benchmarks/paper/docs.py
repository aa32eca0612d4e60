"""Writes the numbers of the comparisons of methods into the documentation and README.md, and draws their pictures.

    python -m benchmarks.paper.docs

Each table stands between two comments that name it. The text around them is written by hand.
"""

from __future__ import annotations

import json
import re
from statistics import fmean
from typing import Any

from benchmarks.markdown_tables import divergence, fill, interval, markdown_table, with_error
from benchmarks.paper.report import draw_task
from benchmarks.paper.theory import NAMES, draw
from benchmarks.record import RESULTS, ROOT

PICTURES = ROOT / "docs" / "assets"

SWEPT = {"pargs": "PARGS", "args": "ARGS", "dpo": "DPO", "head": "steering head"}


def main() -> None:
    theory = _read("theory")
    draw(theory["results"]["summary"], PICTURES)
    tables = {"theory": theory_table(theory)}
    results = _read("paper_table")["results"] if (RESULTS / "paper_table.json").exists() else {}
    for task, result in results.items():
        draw_task(result, task, PICTURES)
        tables[f"{task}-methods"] = result["table"]
        tables[f"{task}-equal"] = equal_table(result) + pictures(task)
        tables[f"{task}-findings"] = findings(result)
        tables[f"{task}-bounded"] = bounded_table(result)
        tables[f"{task}-texts"] = texts(result)
    tables["core"] = core_table(results)
    tables["real-equal"], tables["real-accuracy"] = real_tables(_read("real_preferences")["results"])
    tables["top-k"] = top_k_table(_read("paper_top_k")["results"])
    tables["which-method"] = which_table(_read("which_method")["results"]["sentiment"], results["sentiment"])
    for page in (ROOT / "docs" / "paper-table.md", ROOT / "docs" / "which-method.md", ROOT / "README.md"):
        page.write_text(fill(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


def equal_table(result: dict[str, Any]) -> str:
    lines = [["KL", *SWEPT.values(), *(f"PARGS minus {name}, 95 %" for name in list(SWEPT.values())[1:])]]
    for row in result["at_equal_kl"]:
        cells = [f"{row['kl']:g}"]
        cells += [with_error(row[method]) if method in row else "" for method in SWEPT]
        cells += [_with_interval(row, f"pargs - {method}") for method in list(SWEPT)[1:]]
        lines.append(cells)
    return markdown_table(lines)


def findings(result: dict[str, Any]) -> str:
    """The numbers in words: PARGS and each other method wherever they were compared."""
    lines = []
    for method, name in list(SWEPT.items())[1:]:
        key = f"pargs - {method}"
        compared = [row for row in result["at_equal_kl"] if key in row]
        if not compared:
            continue
        sides = {row["kl"]: row[f"{key}: 95 %"] for row in compared}
        above = [kl for kl, (low, _) in sides.items() if low > 0]
        below = [kl for kl, (_, high) in sides.items() if high < 0]
        unclear = [kl for kl in sides if kl not in above + below]
        said = [
            f"{word} at {_listed(kls)} nats"
            for word, kls in (("PARGS is above", above), ("PARGS is below", below), ("no clear difference", unclear))
            if kls
        ]
        seeds = max(len(row[f"{key}: by seed"]) for row in compared)
        lines.append(f"- PARGS and {name} ({_counted(seeds, 'seed')}), at equal KL: {'; '.join(said)}.")
    for row in result["pargs_at_the_bound_of"]:
        if "pargs - it" in row:
            low, high = row["pargs - it: 95 %"]
            verdict = "PARGS is above" if low > 0 else "PARGS is below" if high < 0 else "no clear difference"
            lines.append(
                f"- PARGS and {row['method']} (n = {row['n']:g}), at its upper bound of {row['kl at most']:.2f} nats: "
                f"{verdict}."
            )
    return "\n".join([*lines, ""])


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def pictures(task: str) -> str:
    return "".join(
        f'\n<figure markdown="span">\n--8<-- "docs/assets/paper_table_{task}_reward_vs_{name}.svg"\n</figure>\n'
        for name in ("kl", "speed")
    )


def bounded_table(result: dict[str, Any]) -> str:
    lines = [["method", "n", "KL at most", "gold", "PARGS at this KL minus it, 95 %"]]
    for row in result["pargs_at_the_bound_of"]:
        difference = _with_interval(row, "pargs - it")
        lines.append([row["method"], f"{row['n']:g}", f"{row['kl at most']:.2f}", with_error(row["gold"]), difference])
    return markdown_table(lines)


def core_table(results: dict[str, Any], kl: float = 3.0) -> str:
    """One line per task, at one divergence."""
    lines = [["task (gold reward)", "policy", *(f"{SWEPT[m]}" for m in ("pargs", "args")), "PARGS minus ARGS, 95 %"]]
    for task, result in results.items():
        policy = next(row for row in result["rows"] if row["method"] == "policy, sampled")
        row = next(
            (row for row in result["at_equal_kl"] if row["kl"] == kl and "pargs" in row and "args" in row), None
        )
        if row is not None:
            cells = [f"{task} ({result['gold']})", with_error([policy["gold"], policy["gold_se"]])]
            cells += [with_error(row["pargs"]), with_error(row["args"]), _with_interval(row, "pargs - args")]
            lines.append(cells)
    return markdown_table(lines)


def theory_table(record: dict[str, Any]) -> str:
    summary = record["results"]["summary"]
    kinds = [kind for kind in NAMES if kind != "optimal"]
    lines = [["beta", *(f"{NAMES[kind]}: missed" for kind in kinds), *(f"{NAMES[kind]}: reward" for kind in NAMES)]]
    for beta in record["settings"]["betas"]:
        at = {row["kind"]: row for row in summary if row["beta"] == beta}
        cells = [f"{beta:g}"]
        cells += [f"{at[kind]['kl_to_optimum']:.3f} ± {at[kind]['kl_to_optimum_se']:.3f}" for kind in kinds]
        cells += [f"{at[kind]['reward']:.2f}" for kind in NAMES]
        lines.append(cells)
    return markdown_table(lines)


def real_tables(result: dict[str, Any]) -> tuple[str, str]:
    """Gains by the larger reward model, and accuracy on held-out pairs, as means over seeds."""
    equal = [["KL", "PARGS: gain", "ARGS: gain", "difference, 95 %", "difference by seed"]]
    for row in result["gains at equal KL"]:
        cells = [f"{row['kl']:g}", *(with_error(row[name]) if name in row else "" for name in ("pargs", "args"))]
        by_seed = [f"{value:+.2f}" for value in row.get("pargs - args: by seed", [])]
        equal.append([*cells, _with_interval(row, "pargs - args"), ", ".join(by_seed)])
    reports = list(result["accuracy by fraction read"].values())
    curves = {
        f"{name}, {kind}": [of[name][kind] for of in reports] for name in reports[0] for kind in reports[0][name]
    }
    curves |= {f"gold reward, {kind}": [curve] for kind, curve in result["gold"].items() if isinstance(curve, dict)}
    fractions = next(iter(curves.values()))[0]["fraction_read"]
    accuracy = [["model, pairs", "pairs", *(f"{fraction:.0%} read" for fraction in fractions[1::2])]]
    for name, of_seeds in curves.items():
        means = [fmean(values) for values in zip(*(curve["accuracy"] for curve in of_seeds), strict=True)]
        accuracy.append([name, str(of_seeds[0]["pairs"]), *(f"{value:.2f}" for value in means[1::2])])
    return markdown_table(equal), markdown_table(accuracy)


def top_k_table(results: dict[str, Any]) -> str:
    """Gains over the policy of the same k at equal divergence."""
    lines = [["task", "k", "policy", "KL", "PARGS: gain", "ARGS: gain", "difference, 95 %"]]
    for task, rows in results.items():
        for row in rows:
            for kl in ("1", "3", "5"):
                at = row[f"{kl} nats"]
                cells = [with_error(at[name]) if name in at else "" for name in ("pargs", "args")]
                between = _with_interval(at, "pargs - args")
                lines.append([task, str(row["top_k"]), with_error(row["policy"]), kl, *cells, between])
    return markdown_table(lines)


def which_table(result: dict[str, Any], paper: dict[str, Any]) -> str:
    """Every method of the comparison of searches, and DPO from the paper's table, where it was trained once."""
    lines = [["method", "setting", "gold", "above the policy, 95 %", "KL", "tokens/s", "rows per prompt"]]
    for row in result["rows"]:
        rows = row["rows in the caches"]
        kl = "not known" if row["kl"] != row["kl"] else divergence(row)
        speed = "" if row["kl"] != row["kl"] else f"{row['tokens_per_s']:.0f}"
        gain = "" if row["method"] == "policy" else interval(row["gain: 95 %"])
        seeds = "" if len(row["seeds"]) > 1 else " (one seed)"
        lines.append(
            [
                row["name"] + seeds,
                row["setting"],
                with_error(row["gold"]),
                gain,
                kl,
                speed,
                " + ".join(rows) if rows[0] != "0" else "none kept",
            ]
        )
    for row in paper["rows"]:
        if row["method"] == "DPO":
            gold, gain = with_error([row["gold"], row["gold_se"]]), interval([row["gain_low"], row["gain_high"]])
            lines.append(
                ["DPO (one seed)", f"strength {row['strength']:g}", gold, gain, f"{row['kl']:.2f}", "", "1 + 0"]
            )
    return markdown_table(lines)


def texts(result: dict[str, Any]) -> str:
    lines = []
    for place, of_prompt in enumerate(result["texts"], start=1):
        lines.append(f"\nPrompt {place} of the evaluation prompts:\n")
        lines += [f"- *{name}*: {_plain(text)}" for name, text in of_prompt.items()]
    return "\n".join(lines) + "\n\n"


def _plain(text: str) -> str:
    text = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)


def _with_interval(row: dict[str, Any], name: str) -> str:
    if name not in row:
        return ""
    low, high = row[f"{name}: 95 %"]
    return f"{row[name][0]:+.2g} [{low:+.2g}, {high:+.2g}]"


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
