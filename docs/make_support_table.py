"""Writes docs/decoding-modes.md: which decoding mode is steered by which scorer and way in, as the tests find it.

    python docs/make_support_table.py

It runs the tests of tests/decoding/test_modes.py and test_reward_kinds.py and makes tables of what passed. A mark in a
table is a test that was run, not a claim.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
FILES = ("tests/decoding/test_modes.py", "tests/decoding/test_reward_kinds.py")
COLUMNS = {
    "test_every_mode_equals_the_whole_sequence_reference[{mode}-siblings]": "`siblings`",
    "test_every_mode_equals_the_whole_sequence_reference[{mode}-recorded siblings]": "with `use_cuda_graph`",
    "test_every_mode_equals_the_whole_sequence_reference[{mode}-expand]": "a cache per candidate (`expand`)",
    "test_the_mixin_gives_the_processors_tokens[{mode}]": "`RewardGuidedGenerationMixin`",
    "test_the_callable_gives_the_processors_tokens[{mode}]": "`custom_generate=`",
}
HEAD = """\
# Decoding modes

Each cell is a test that was run: the scores agree with those of the whole-sequence reference within 1e-4 (float32)
and the tokens are the same. Written by `python docs/make_support_table.py`; do not edit.

"""
KINDS_HEAD = """
The same for the kinds of reward model, by the processor and by `custom_generate=` (the reference reads
whole texts or sequences for every candidate):

"""
FOOT = """
Refused: with an error that says what to use instead (`generate()` does not hand a callable what drafts need).

Also tested: streaming, encoder-decoder policies (the reward model reads the source text as the prompt), several
threads with a processor each, a compiled policy (for steering heads too, in one thread), repeated calls on one
processor, and rows that have ended. `use_cuda_graph` was tested on a CPU only, where it uses memory in the same way
without a graph.
Refused: continuous batching (`generate_batch`, `cache_implementation="paged"`), which takes no logits processors, and
prompts given as `inputs_embeds` alone, which no reward model can read.

Besides guiding every token, `generate()` can [search over several responses](how-to/search.md).
"""


def run_tests(*files: str) -> set[str]:
    """Names of the tests in some files that passed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *files, "-q", "-m", "slow or not slow", f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
        cases = ElementTree.parse(report).iter("testcase")
        return {case.get("name", "") for case in cases if not len(case)}


def make_table(passed: set[str]) -> str:
    """The page, from the names of the tests that passed."""
    modes = []
    for name in sorted(passed):
        if match := re.fullmatch(r"test_every_mode_is_steered\[(.*)\]", name):
            modes.append(match[1])
    lines = ["| mode | " + " | ".join(COLUMNS.values()) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for mode in modes:
        cells = ["✓" if test.format(mode=mode) in passed else "refused" for test in COLUMNS]
        lines.append(f"| {mode} | " + " | ".join(cells) + " |")
    return HEAD + "\n".join(lines) + "\n" + KINDS_HEAD + make_kinds_table(passed) + FOOT


def make_kinds_table(passed: set[str]) -> str:
    """The table of kinds of reward model and modes, from the names of the tests that passed."""
    pattern = r"test_every_kind_equals_its_reference_in_every_way_in\[(.*)-(.*)\]"
    found = {match.groups() for name in passed if (match := re.fullmatch(pattern, name))}
    kinds, modes = (sorted(set(names)) for names in zip(*found, strict=True))
    lines = ["| reward model | " + " | ".join(modes) + " |", "| --- " * (len(modes) + 1) + "|"]
    for kind in kinds:
        cells = ["✓" if (kind, mode) in found else "not tested" for mode in modes]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "decoding-modes.md").write_text(make_table(run_tests(*FILES)), encoding="utf-8")
