"""What does a step cost a reward model with recurrent layers, next to a plain transformer of its size?

    python -m benchmarks.decode.hybrids

It also writes the table in docs/performance.md.

The reward models have random weights, which do not matter here, 8 layers (one in four of them attention) and about 20
million parameters. A step scores k candidates after prefixes that grow by one of them. All ways take turns, round by
round, so that other work on the machine affects them alike. Figures are medians over rounds of ratios within a round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.utils import logging

from benchmarks.markdown_tables import fill, markdown_table
from benchmarks.record import ROOT, record, refuse_uncommitted_code
from rgtg_hf.rewards.sequence_classifiers import ensure_sequence_classifier
from rgtg_hf.scoring.choose import SCORERS
from rgtg_hf.scoring.scorer import PrefixBatch, Scorer

VOCABULARY, HIDDEN, LAYERS = 8192, 384, 8
SIZES: dict[str, Any] = {
    **{"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 1024, "num_hidden_layers": LAYERS},
    **{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 48, "max_position_embeddings": 8192},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_experts": 4, "num_experts_per_tok": 2},
    **{"num_local_experts": 4, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256},
    **{"mamba_n_heads": 12, "mamba_d_head": 64, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_d_ssm": 768},
    **{"linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_key_head_dim": 48, "conv_dim": HIDDEN},
    **{"linear_value_head_dim": 48, "use_mamba_kernels": False, "num_dense_layers": 2},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_next": {"layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2},
    "bamba": {"attn_layer_indices": [3, 7]},
    "falcon_h1": {},  # attention and states in every layer
    "lfm2_moe": {"layer_types": (["conv"] * 3 + ["full_attention"]) * 2},
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 3},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--points", nargs="+", default=["1x200", "1x2000", "4x1000"], help="ROWSxTOKENS of prefixes")
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--steps", type=int, default=6, help="steps of a round; the first two are not counted")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--uncommitted", action="store_true", help="measure code that is not committed")
    parser.add_argument("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    options = parser.parse_args()
    if not options.uncommitted:
        refuse_uncommitted_code("add --uncommitted")
    logging.set_verbosity_error()
    plain = reward_model_of("llama", {})
    rows = []
    for family in options.families:
        model = reward_model_of(family, FAMILIES[family])
        for point in options.points:
            batch, length = map(int, point.split("x"))
            rows.append({"family": family, "parameters": model.num_parameters(), "rows": batch, "tokens": length})
            rows[-1] |= measure(plain, model, batch, length, options)
            print(rows[-1], flush=True)
    record("hybrids", vars(options) | {"llama_parameters": plain.num_parameters()}, rows, options.output)
    if options.output is None:
        page = ROOT / "docs" / "performance.md"
        page.write_text(fill(page.read_text(encoding="utf-8"), {"hybrids": table(rows)}), encoding="utf-8")


def reward_model_of(family: str, different: dict[str, Any]) -> PreTrainedModel:
    """A reward model of a family with random weights."""
    kind = CONFIG_MAPPING[family]
    known = kind().to_dict()
    config = kind(**{name: value for name, value in SIZES.items() if name in known}, **different)
    config.num_labels = 1
    torch.manual_seed(0)
    made = ensure_sequence_classifier(config)
    return (made.from_config(config) if hasattr(made, "from_config") else made(config)).eval()


def measure(plain: Any, model: Any, batch: int, length: int, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a step by each way, and their ratios."""
    ways = {
        "plain siblings": lambda: SCORERS["siblings"](plain),
        "hybrid": lambda: SCORERS["hybrid"](model),
        "expand": lambda: SCORERS["expand"](model),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds):
        for name, make in ways.items():
            found[name].append(step_seconds(make(), batch, length, number, options))
    ratios = {
        "hybrid_over_plain": [a / b for a, b in zip(found["hybrid"], found["plain siblings"], strict=True)],
        "expand_over_hybrid": [a / b for a, b in zip(found["expand"], found["hybrid"], strict=True)],
    }
    return {
        **{f"{name} ms": round(1000 * statistics.median(times), 2) for name, times in found.items()},
        **{name: round(statistics.median(values), 2) for name, values in ratios.items()},
    }


def step_seconds(scorer: Scorer, batch: int, length: int, seed: int, options: argparse.Namespace) -> float:
    """The median time of a step."""
    generator = torch.Generator().manual_seed(seed)
    ids, times = torch.randint(3, VOCABULARY, (batch, length), generator=generator), []
    for _ in range(options.steps):
        candidates = torch.stack([torch.randperm(VOCABULARY, generator=generator)[: options.top_k] for _ in ids])
        start = time.perf_counter()
        scorer.score(PrefixBatch(ids, torch.ones_like(ids), length), candidates)
        times.append(time.perf_counter() - start)
        ids = torch.cat([ids, candidates[:, :1]], dim=1)
    return statistics.median(times[2:])


def table(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    columns = ["family", "prefixes", "transformer, siblings, ms", "hybrid, ms", "over the transformer"]
    columns += ["a cache per candidate, ms", "over hybrid"]
    lines = [columns]
    for row in rows:
        times = [f"{row[name + ' ms']:.1f}" for name in ("plain siblings", "hybrid", "expand")]
        size, plural = f"{row['parameters'] / 1e6:.0f} M", "" if row["rows"] == 1 else "s"
        cells = [f"{row['family']} ({size})", f"{row['rows']} row{plural} of {row['tokens']:,} tokens", *times[:2]]
        cells += [f"{row['hybrid_over_plain']:.2f}", times[2], f"{row['expand_over_hybrid']:.2f}"]
        lines.append(cells)
    return markdown_table(lines)


if __name__ == "__main__":
    main()
