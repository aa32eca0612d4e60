"""How far do the recipes of docs/how-to/recipes.md go?

    python -m benchmarks.values.recipes             two hours on two cores; a run that was stopped continues
    python -m benchmarks.values.recipes --report    the table in the page

It runs the commands of the page: the policy's own responses to 128 of the demo's training prompts, rated by the
recipe's function, a value model of them, and an evaluation on 104 other prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.markdown_tables import fill, markdown_table
from benchmarks.record import ROOT, record
from benchmarks.tasks import held_out_prompts, prompts_of_pairs
from rgtg_hf.cli.demo.demo_policy import demo_policy_path
from rgtg_hf.cli.lines import json_lines
from rgtg_hf.cli.main import main as run
from rgtg_hf.files import write_whole

EXAMPLES = ROOT / "docs" / "examples"
# With the beta by tokens that is halved and doubled; the default of such models is above it.
RECIPES = {"shorter": 3.6, "simpler": 32.0, "calmer": 46.0, "personal": 85.0, "about_the_sea": 27.0}
PROMPTS, RESPONSES, NEW_TOKENS, LAYERS, EPOCHS, ROWS = 128, 8, 48, 6, 2, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "recipes")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--report", action="store_true", help="only write the results that are there")
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results and the page)")
    options = parser.parse_args()
    sys.path.insert(0, str(EXAMPLES))
    os.environ["PYTHONPATH"] = str(EXAMPLES)
    options.folder.mkdir(parents=True, exist_ok=True)
    if not options.report:
        for recipe in options.recipes:
            measure(options.folder, recipe)
    rows = [row for recipe in options.recipes for row in results_of(options.folder, recipe)]
    settings = {"prompts": PROMPTS, "responses": RESPONSES, "new tokens": NEW_TOKENS, "layers": LAYERS}
    record("recipes", settings | {"epochs": EPOCHS, "rows of the search": ROWS, "seed": 0}, rows, options.output)
    if options.output is None:
        page = ROOT / "docs" / "how-to" / "recipes.md"
        page.write_text(fill(page.read_text(encoding="utf-8"), {"recipes": table(rows)}), encoding="utf-8")


def measure(folder: Path, recipe: str) -> None:
    """Runs the commands of one recipe, as far as their results are not there."""
    policy, length = ["--model", str(demo_policy_path())], ["--max_new_tokens", str(NEW_TOKENS)]
    prompts, held_out, rated = folder / "prompts.jsonl", folder / "held_out.jsonl", folder / f"{recipe}.jsonl"
    if not held_out.exists():
        write_whole(prompts, json_lines({"prompt": prompt} for prompt in prompts_of_pairs()[:PROMPTS]))
        write_whole(held_out, json_lines({"prompt": prompt} for prompt in held_out_prompts()))
    if not (written := folder / "rollouts.jsonl").exists():
        _run(
            *("rollouts", *policy, "--prompts", str(prompts), "--reward", "recipes:shorter", "--output", str(written)),
            *("--num_responses", str(RESPONSES), *length),
        )
    if not rated.exists():
        _run("rate", str(written), "--reward", f"recipes:{recipe}", "--output", str(rated))
    if not (model := folder / recipe / "config.json").exists():
        _run(
            *("train-values", "--model_name_or_path", policy[1], "--num_layers", str(LAYERS)),
            *("--num_train_epochs", str(EPOCHS), "--per_device_train_batch_size", "16", "--no_gradient_checkpointing"),
            *("--bf16", "false", "--dataset_name", str(rated), "--output_dir", str(model.parent)),
        )
    _run(
        *("evaluate", *policy, "--reward_model", str(model.parent), "--prompts", str(held_out), *length),
        *("--gold", f"recipes:{recipe}", "--methods", "pargs", "blockwise", "--ns", str(ROWS)),
        *("--betas", *(str(RECIPES[recipe] * factor) for factor in (0.5, 1, 2))),
        *("--output", str(folder / f"{recipe}-evaluation")),
    )


def _run(*arguments: str) -> None:
    print("rgtg-hf", *arguments, flush=True)
    if code := run(arguments):
        raise SystemExit(code)


def results_of(folder: Path, recipe: str) -> list[dict[str, Any]]:
    """The rows of a recipe's evaluation."""
    found = json.loads((folder / f"{recipe}-evaluation" / "report.json").read_text(encoding="utf-8"))
    kept = ("method", "strength", "gold", "gold_se", "gain_low", "gain_high", "wins", "kl", "perplexity")
    return [{"recipe": recipe} | {name: row.get(name) for name in kept} for row in found["rows"]]


def table(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    lines = [["recipe", "method", "reward", "above the policy, 95 %", "KL", "perplexity"]]
    for row in rows:
        names = {"policy": "policy", "pargs": f"by tokens, beta {row['strength']:.3g}"}
        method = names.get(row["method"], f"by blocks, {ROWS} rows")
        gain = "" if row["method"] == "policy" else f"{row['gain_low']:+.2g} to {row['gain_high']:+.2g}"
        kl = "≤ " * (row["method"] == "blockwise") + f"{row['kl']:.2f}"
        cells = [row["recipe"], method, f"{row['gold']:.3g} ± {row['gold_se']:.1g}", gain, kl]
        lines.append([*cells, f"{row['perplexity']:.1f}"])
    return markdown_table(lines)


if __name__ == "__main__":
    main()
