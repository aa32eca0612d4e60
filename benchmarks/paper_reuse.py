"""Takes over what bench_heads.py has made with the same models and settings, so that it is not made twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from paper_data import write_atomically

__all__ = ["take_over"]

# Of bench_heads.py: kind of model, and under which names paper_table.py has the model and what it wrote.
_KINDS = {
    "siblings": ("prefix", "sentiment-pargs"),
    "steering head": ("head", "sentiment-head"),
}


def take_over(heads: Path, folder: Path, seeds: list[int], tokenizer: Any, max_new_tokens: int) -> None:
    """Copies models and samples of the sentiment task that are finished there and not yet here.

    The samples tell texts and divergences; their speed, and how likely the policy finds them, were not measured.

    Args:
        heads: The folder that bench_heads.py was given.
        folder: The folder of paper_table.py.
        seeds: Which seeds.
        tokenizer: The policy's.
        max_new_tokens: Of both benchmarks: texts that are shorter ended by themselves.
    """
    for kind, (model, method) in _KINDS.items():
        for seed in seeds:
            saved, target = heads / f"{kind}-{seed}", folder / f"sentiment-{model}-{seed}"
            if (saved / "config.json").exists() and not target.exists():
                shutil.copytree(saved, target.with_suffix(".partial"), dirs_exist_ok=True)
                target.with_suffix(".partial").rename(target)
            for file in heads.glob(f"samples-{kind}-{seed}-*.json"):
                drawn = json.loads(file.read_text(encoding="utf-8"))
                piece = folder / "samples" / f"{method}-{seed}-{drawn['beta']:.4g}.json"
                if drawn["seed"] == seed and not piece.exists():
                    write_atomically(piece, json.dumps(_piece(drawn, method.split("-")[1], tokenizer, max_new_tokens)))


def _piece(drawn: dict[str, Any], method: str, tokenizer: Any, max_new_tokens: int) -> dict[str, Any]:
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"][:max_new_tokens] for text in drawn["texts"]]
    ids = [row if len(row) == max_new_tokens else [*row, tokenizer.eos_token_id] for row in ids]
    return {
        "method": method,
        "seed": drawn["seed"],
        "strength": drawn["beta"],
        "commit": None,
        "texts": drawn["texts"],
        "divergences": drawn["kl"],
        "ids": ids,
        "tokens": sum(map(len, ids)),
        "seconds": 0.0,
        "log_likelihoods": [],
        "reward_model_tokens": 0,
    }
