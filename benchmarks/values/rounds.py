"""Does a second round of rollouts help? Heads of advantages of one round, of two, and of a round and a guided one.

    python -m benchmarks.values.rounds --stages train sample     two hours; a run that was stopped continues
    python -m benchmarks.values.rounds --stages report

The first head, the prompts and the folder are those of benchmarks/baselines/table.py. It guides the second round, and
a head is trained on the responses of both. Another head learns from as many responses of the policy alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.values.head_comparison import FIRST, compare_heads
from benchmarks.values.rollout_models import GUIDE_BETA, ROLLOUTS, rated_rollouts

DIVERGENCES = (1.0, 2.0, 4.0)
HEADS = {FIRST: "one round", "two_rounds": "two rounds of the policy", "guided_round": "the second round guided"}
PAIRS = (("two_rounds", FIRST), ("guided_round", FIRST), ("guided_round", "two_rounds"))
SECOND = 100  # added to a seed: responses that no other benchmark trains on


def responses(folder: Path, task: str, seed: int, head: str) -> list[dict[str, Any]]:
    """The responses of both rounds."""
    guide = folder / f"{task}-{FIRST}-{seed}" if head == "guided_round" else None
    return rated_rollouts(folder, task, seed) + rated_rollouts(folder, task, seed + SECOND, guide)


def main() -> None:
    compare_heads(
        __doc__,
        "rounds",
        HEADS,
        responses,
        divergences=DIVERGENCES,
        pairs=PAIRS,
        tasks=["plain"],
        rollouts=ROLLOUTS,
        guide_beta=GUIDE_BETA,
    )


if __name__ == "__main__":
    main()
