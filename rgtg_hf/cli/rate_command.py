"""`rgtg-hf rate`: a reward for each response in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgtg_hf.cli.errors import UserError, blame_input
from rgtg_hf.cli.lines import json_rows
from rgtg_hf.cli.next_command import suggest
from rgtg_hf.cli.option_checks import check_at_least_one
from rgtg_hf.cli.parser import LineParser
from rgtg_hf.cli.partial import PartialOutput, work_through
from rgtg_hf.cli.processes import join_processes
from rgtg_hf.cli.prompt_files import check_text
from rgtg_hf.cli.quiet import quiet_transformers

__all__ = ["run"]


@dataclass(frozen=True)
class _Job:
    """One response to rate: its position in the file, and its row."""

    index: int
    row: dict[str, Any]


def run(arguments: Sequence[str]) -> None:
    """Rates responses that are there already. A run that was interrupted continues, and several processes share it.

    Args:
        arguments: The options of the command line.

    Raises:
        UserError: If the input is wrong.
    """
    options = _parser().parse_args(list(arguments))
    check_at_least_one(options, "batch_size")
    rows = _read(options.responses)
    processes = join_processes(options.device)

    from rgtg_hf.cli.judge import describe_rewards, load_judge
    from rgtg_hf.evaluation.gold_models import rate
    from rgtg_hf.evaluation.prompts import last_message

    quiet_transformers()
    judging = {"option": "--reward", "device": processes.own_device, "trust_remote_code": options.trust_remote_code}
    reward = load_judge(options.reward, **judging)

    def make_rows(number: int, batch: list[_Job]) -> list[dict[str, Any]]:
        prompts, responses = ([last_message(job.row[name]) for job in batch] for name in ("prompt", "completion"))
        with blame_input(f"--reward: {options.reward} cannot be used", (ValueError,)):
            rewards = rate(reward, prompts, responses)
        return [job.row | {"index": job.index, "reward": one} for job, one in zip(batch, rewards, strict=True)]

    jobs = [_Job(index, row) for index, row in enumerate(rows)]
    batches = [jobs[start : start + options.batch_size] for start in range(0, len(jobs), options.batch_size)]
    header = {"settings": [options.reward, options.batch_size], "responses": rows}
    with PartialOutput(Path(options.output), header, processes) as output:
        work_through(output, batches, make_rows)
    if processes.index == 0:
        rewards = [row["reward"] for _, row in json_rows("--output", Path(options.output))]
        print(f"{options.output}: {len(rewards)} responses, {describe_rewards(rewards)}")
        start = ("--model_name_or_path", "owner/policy", "--dataset_name", options.output)
        suggest("rgtg-hf", "train-head", *start, "--output_dir", "my_head")


def _read(file: str) -> list[dict[str, Any]]:
    rows = []
    for number, row in json_rows("responses", Path(file).expanduser()):
        for name in ("prompt", "completion"):
            check_text(row, name, f"responses: line {number} of {file}", may_be_empty=name == "completion")
        rows.append(row)
    if not rows:
        raise UserError(f"responses: {file} has no rows; each needs a `prompt` and a `completion`")
    return rows


def _parser() -> LineParser:
    parser = LineParser(
        "rate",
        "Rate responses that are there already, those of `rollouts` or your own.",
        "RESPONSES --reward NAME --output FILE [options]",
        ["rgtg-hf rate rollouts.jsonl --reward my_module:my_function --output rated.jsonl"],
    )
    add = parser.group("responses and rewards")
    add("responses", metavar="RESPONSES", help=".jsonl rows with a `prompt` and a `completion`")
    add("--reward", required=True, help="vader, flesch, module:function or a reward model")
    add("--output", required=True, metavar="FILE", help="write the rows here with their rewards")
    add("--batch_size", type=int, default=64, help="responses rated together")
    add("--device", metavar="NAME", help="device of a reward model, for example cuda:0")
    add("--trust_remote_code", action="store_true", help="run code that comes with a reward model")
    return parser
