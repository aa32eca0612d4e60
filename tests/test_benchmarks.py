"""Every benchmark can be imported, so that a renamed function does not break it unnoticed."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_benchmark_can_be_imported(path):
    importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def test_the_readme_names_every_script():
    readme = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    for path in SCRIPTS:
        if "def main(" in path.read_text("utf-8"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert module in readme or path.name == "soak.py", module


@pytest.mark.slow
def test_the_authors_comparison_runs_with_stand_ins(tmp_path):
    options = ["tldr", "--stand_ins", "--folder", str(tmp_path / "parts"), "--output", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "benchmarks.paper.authors", *options], check=True, cwd=ROOT)
    results = json.loads((tmp_path / "authors_tldr.json").read_text("utf-8"))["results"]
    assert [row["method"] for row in results] == ["policy", "args", "pargs_greedy", "pargs", "best_of_n"]
    assert all(row["tokens_per_s"] > 0 for row in results)
