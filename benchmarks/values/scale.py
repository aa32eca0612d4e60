"""How far do more responses carry? Heads of advantages of the usual responses, and of several times as many.

    python -m benchmarks.baselines.prompts FILES --each 5000 --without outputs/baselines/prompts.jsonl \\
        --output others.jsonl
    rgtg-hf rollouts --model FOLDER --prompts others.jsonl --num_responses 12 --max_new_tokens 48 --reward vader \\
        --engine vllm --output outputs/baselines/rollouts-others.jsonl
    python -m benchmarks.values.scale --stages train sample     a run that was stopped continues
    python -m benchmarks.values.scale --stages report

The first head, the evaluation prompts and the folder are those of benchmarks/baselines/table.py. The other prompts are
of the same kinds as those of evaluation, which the demo's are not. All have twelve responses.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.baselines.prompts import by_hash
from benchmarks.tasks import TASKS
from benchmarks.values.head_comparison import FIRST, compare_heads
from benchmarks.values.rollout_models import rated
from rgtg_hf.evaluation.prompts import last_message

DIVERGENCES = (1.0, 1.2, 2.0, 4.0)  # best-of-8 has a bound of 1.2
PROMPTS = {"others_256": 256, "others_768": 768, "others": None}
HEADS = {
    FIRST: "the demo's 256 prompts",
    "others_256": "256 others",
    "others_768": "768 others",
    "others": "all others",
}
PAIRS = tuple((head, FIRST) for head in PROMPTS)


def responses(folder: Path, task: str, seed: int, head: str) -> list[dict[str, Any]]:
    """The responses to some of the other prompts, the same for all seeds."""
    rows = _rated(folder / "rollouts-others.jsonl", task)
    kept = set(by_hash({last_message(row["prompt"]) for row in rows})[: PROMPTS[head]])
    return [row for row in rows if last_message(row["prompt"]) in kept]


_rated = cache(rated)


def main() -> None:
    compare_heads(
        __doc__,
        "scale",
        HEADS,
        responses,
        divergences=DIVERGENCES,
        pairs=PAIRS,
        tasks=list(TASKS),
        other_prompts=PROMPTS,
    )


if __name__ == "__main__":
    main()
