"""Do the property tests notice when something subtle is wrong?

    python tests/planted_faults.py [WORD]

Each fault is planted in a temporary copy of the package, where the property tests are run: they must fail. Nothing of
the checkout is changed. With a word, only the faults whose names hold it are tried.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ("test_guided_outputs", "test_scorer_walks", "test_steering_outputs", "test_text_outputs")


@dataclass
class Fault:
    """A line of the package and what stands there instead."""

    name: str
    path: str
    old: str
    new: str


FAULTS = [
    Fault(
        "a crop off by one: a token that was dropped stays in the cache",
        "scoring/prefix_cache.py",
        "    return best, rows\n",
        "    return (best + 1).clamp(max=held.shape[1]), rows\n",
    ),
    Fault(
        "beams reordered by the inverse permutation",
        "scoring/prefix_cache.py",
        "self.cache.reorder_cache(source)",
        "self.cache.reorder_cache(source.argsort())",
    ),
    Fault(
        "a crop off by one, siblings: a token that was dropped stays in a row's prefix",
        "scoring/row_reader.py",
        "        missing = lengths - agreed.minimum(lengths - 1)\n",
        "        missing = lengths - (agreed + 1).minimum(lengths - 1)\n",
    ),
    Fault(
        "beams reordered by the inverse permutation, siblings",
        "scoring/row_reader.py",
        "            self.buffer.keep_rows(found.sources)\n",
        "            self.buffer.keep_rows(found.sources.argsort())\n",
    ),
    Fault(
        "the state of another candidate kept, hybrids",
        "scoring/hybrid_cache.py",
        "                LinearAttentionLayer.reorder_cache(layer, chosen)",
        "                LinearAttentionLayer.reorder_cache(layer, chosen // 2 * 2)",
    ),
    Fault(
        "beams that moved keep the keys of their own row, hybrids",
        "scoring/hybrid_cache.py",
        "                if moved:\n",
        "                if len(chosen) != len(self._layout.is_token):\n",
    ),
    Fault(
        "a candidate sees its siblings, hybrids",
        "scoring/shared_attention.py",
        "torch.eye(self.slot_count, dtype=torch.bool, device=tokens.device)",
        "torch.ones(self.slot_count, self.slot_count, dtype=torch.bool, device=tokens.device).tril()",
    ),
    Fault(
        "a padded position scored: the first one is read as a token",
        "decoding/padding.py",
        "    return mask - (input_ids == pad_token_id).long().cumprod(-1)\n",
        "    leading = (input_ids == pad_token_id).long().cumprod(-1)\n"
        "    return mask - leading * (torch.arange(leading.shape[1]) > 0)\n",
    ),
    Fault(
        "positions that count padding",
        "scoring/prefix_cache.py",
        "((columns >= 0).long().cumsum(-1) - 1)",
        "(torch.ones_like(columns).cumsum(-1) - 1)",
    ),
    Fault(
        "the least likely candidate never steered",
        "decoding/step.py",
        "    guided = guided.masked_fill(~candidates.valid",
        "    guided[:, -1] = candidates.scores[:, -1]\n    guided = guided.masked_fill(~candidates.valid",
    ),
]


def failing_tests(fault: Fault | None) -> list[str]:
    """Names of the property tests that fail with a fault planted."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("rgtg_hf", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if fault is not None:
            path = copy / "rgtg_hf" / fault.path
            text = path.read_text("utf-8")
            if text.count(fault.old) != 1:
                raise SystemExit(f"{fault.path} holds {text.count(fault.old)} times {fault.old!r}: mend this script.")
            path.write_text(text.replace(fault.old, fault.new), "utf-8")
        files = [f"tests/reliability/{name}.py" for name in TESTS]
        command = [sys.executable, "-m", "pytest", *files, "-q", "--tb=no", "--hypothesis-profile=find"]
        result = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        if result.returncode not in (0, 1):
            raise SystemExit(result.stdout + result.stderr)
        failed = [line for line in result.stdout.splitlines() if line.startswith("FAILED")]
        return [line.split("::")[1].split(" ")[0] for line in failed]


def main() -> int:
    """Tries all faults, and first that there is none."""
    if failed := failing_tests(None):
        print(f"Without any fault these fail: {failed}")
        return 2
    missed = 0
    for fault in FAULTS:
        if not all(word in fault.name for word in sys.argv[1:]):
            continue
        start = time.monotonic()
        found = failing_tests(fault)
        missed += not found
        print(f"{'caught' if found else 'MISSED'}: {fault.name} ({fault.path}), {time.monotonic() - start:.0f} s")
        print("".join(f"    {name}\n" for name in found), end="", flush=True)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
