"""Up to which `value_beta` are value models right? Expected and found returns on responses that they have not seen.

    python -m benchmarks.values.calibration

The value models and the policy's responses to the held-out prompts are those of frontier.py, which makes them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import record
from benchmarks.tasks import TASKS, held_out_prompts
from rgtg_hf.cli.demo.demo_policy import demo_policy_path
from rgtg_hf.cli.prompt_files import encode_prompts
from rgtg_hf.evaluation.chart import Series, draw_series
from rgtg_hf.rewards.load import load_reward_model, load_tokenizer
from rgtg_hf.rewards.prefix_rewards import return_distributions
from rgtg_hf.rewards.value_calibration import calibration, calibration_sums, trusted_value_beta
from rgtg_hf.rewards.value_model import bins_of

ASSETS = Path(__file__).parents[2] / "docs" / "assets"


def calibrate(folder: Path, task: str, seed: int, prompts: list[list[int]]) -> dict[str, Any] | None:
    """The calibration of a value model on all responses of the policy of the same seed; None where one is missing."""
    saved = folder / f"{task}-value-{seed}"
    pieces = sorted((folder / "samples").glob(f"any-policy-{seed}-*.json"))
    if not saved.exists() or not pieces:
        return None
    model = load_reward_model(saved)
    bins = bins_of(model.config)
    sums: dict[str, list[float]] = {}
    for piece in pieces:
        written = json.loads(piece.read_text(encoding="utf-8"))
        gold = TASKS[task].gold(written["texts"])
        for prompt, response, reward in zip(prompts, written["ids"], gold, strict=False):
            with torch.inference_mode():
                given = return_distributions(model, torch.tensor([prompt + response]))[:, len(prompt) - 1 :].log()
            own = calibration_sums(given, torch.tensor([reward]), torch.ones(given.shape[:2]), bins)
            for name, value in own.items():
                sums.setdefault(name, []).append(float(value))
    found = calibration(sums, model.config.value_range)
    return found | {"value_range": model.config.value_range, "trusted_value_beta": trusted_value_beta(found)}


def draw(task: str, by_seed: dict[int, dict[str, Any]], folder: Path) -> None:
    """Expected against found returns, and how far soft values are off."""
    returns = [Series(f"seed {seed}", one["expected"], one["found"]) for seed, one in by_seed.items()]
    ends = [min(min(one.x) for one in returns), max(max(one.x) for one in returns)]
    ratios = [
        Series(f"seed {seed}", one["value_beta"], one["log_ratio"], [2 * error for error in one["standard_error"]])
        for seed, one in by_seed.items()
    ]
    draw_series(
        [*returns, Series("as expected", ends, ends, dashed=True)],
        folder / f"value_calibration_{task}_returns.svg",
        title="Returns after prefixes of held-out responses",
        x_name="expected return",
        y_name="found return",
    )
    draw_series(
        ratios,
        folder / f"value_calibration_{task}_soft_values.svg",
        title="How far soft values are off, ± 2 standard errors",
        x_name="value_beta",
        y_name="log E exp(b (r - V_b)), nats",
        log_x=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("--folder", type=Path, default=Path("outputs/values"), help="of the models and responses")
    add("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--output", type=Path, help="folder of the report (default: benchmarks/results, and docs/assets for pictures)")
    options = parser.parse_args()
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(str(demo_policy_path()))
    prompts = [encode_prompts(tokenizer, [prompt])["input_ids"][0].tolist() for prompt in held_out_prompts()]
    results = {}
    for task in options.tasks:
        every = {seed: calibrate(options.folder, task, seed, prompts) for seed in options.seeds}
        if by_seed := {seed: one for seed, one in every.items() if one is not None}:
            draw(task, by_seed, options.output or ASSETS)
            results[task] = by_seed
    used = {name: value for name, value in vars(options).items() if name not in ("folder", "output")}
    print(record("value_calibration", used, results, options.output))


if __name__ == "__main__":
    main()
