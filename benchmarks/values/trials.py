r"""How should a reward or value model be trained on rollouts? Judged on training prompts that it was not trained on.

    python -m benchmarks.values.trials --stages train      a quarter of an hour each; a run that was stopped continues
    python -m benchmarks.values.trials --stages report     writes its table into docs/values-log.md, too

The responses are those of benchmarks/baselines/table.py, whose folder it shares. Models are trained on those to three
quarters of the prompts. On the others, the increments of all candidates are read along each response. As in
benchmarks/heads/slopes.py,

    S = sum over steps t of A(y_t) - E[A(v)]          V = E of the sum over steps t of Var[A(v)]
    slope = Cov(R, S) / sqrt(V)

and at D nats per response, the gain in gold reward is slope · sqrt(2 D) to first order. The best slope that there can
be is the standard deviation of R. The values of a model that is right are a martingale: E[A(v)] is 0. What is left of
it, D = sum of E[A(v)], is what later tokens take back. `taken back` is the correlation of S and D.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.estimates import estimate
from benchmarks.heads.slopes import Moments, centre, compare, fold_of, moments_of_steps
from benchmarks.markdown_tables import fill, markdown_table
from benchmarks.models import load_policy
from benchmarks.paper.table import settings_of
from benchmarks.record import ROOT, record
from benchmarks.tasks import TASKS
from benchmarks.values.rollout_models import ROLLOUTS, rated_rollouts, train_on_rows
from rgtg_hf import NextTokenRewardModel, RewardGuidedLogitsProcessor
from rgtg_hf.evaluation.prompts import encode_batch
from rgtg_hf.rewards.load import load_reward_model
from rgtg_hf.training.hidden_state_store import HiddenStateStore

PAGE = ROOT / "docs" / "values-log.md"
FOLDS = 4  # of the prompts; the first is held out
JUDGED = 6  # held-out responses to a prompt

Rows = list[dict[str, Any]]


class Trial(NamedTuple):
    """One way of training.

    Attributes:
        name: What is told.
        kind: A kind of [`train`][benchmarks.models.train].
        settings: Of the trainer, in place of those of benchmarks/models.py.
        num_layers: Layers of the policy that the model starts from; None for the usual number.
        share: Of the training prompts.
    """

    name: str
    kind: str = "value"
    settings: dict[str, Any] = {}  # noqa: RUF012 - never changed
    num_layers: int | None = None
    share: float = 1.0


TRIALS = {
    "value": Trial("value: learning rate 1e-4, two epochs"),
    "value_slow": Trial("value: learning rate 3e-5", settings={"learning_rate": 3e-5}),
    "value_fast": Trial("value: learning rate 3e-4", settings={"learning_rate": 3e-4}),
    "value_faster": Trial("value: learning rate 1e-3", settings={"learning_rate": 1e-3}),
    "value_once": Trial("value: one epoch", settings={"num_train_epochs": 1}),
    "value_often": Trial("value: 3e-4, four epochs", settings={"learning_rate": 3e-4, "num_train_epochs": 4}),
    "value_half": Trial("value: 3e-4, half of the prompts", settings={"learning_rate": 3e-4}, share=0.5),
    "value_fine": Trial("value: 3e-4, 51 bins", settings={"learning_rate": 3e-4, "num_bins": 51}),
    "value_gaussian": Trial("value: 3e-4, Gaussian targets", settings={"learning_rate": 3e-4, "targets": "gaussian"}),
    "value_deep": Trial("value: 3e-4, 10 layers", settings={"learning_rate": 3e-4}, num_layers=10),
    "pairs": Trial("pairs: learning rate 1e-4, one epoch", "prefix"),
    "pairs_fast": Trial("pairs: learning rate 3e-4", "prefix", {"learning_rate": 3e-4}),
    "pairs_faster": Trial("pairs: learning rate 1e-3", "prefix", {"learning_rate": 1e-3}),
    "head": Trial("a steering head, of pairs", "head"),
    "advantages": Trial("a steering head, of advantages", "advantage"),
}


class Steps(NamedTuple):
    """The held-out responses and what the policy might have written at each of their steps.

    Attributes:
        rows: Rows of [`rated_rollouts`][benchmarks.values.rollout_models.rated_rollouts], `JUDGED` of each prompt,
            those together.
        candidates: The policy's most likely tokens at each step, shape `[rows, steps, k]`. Those of the last step of a
            response stand after it too.
        scores: Their log-probabilities, renormalised, same shape.
    """

    rows: Rows
    candidates: Tensor
    scores: Tensor


def prompt_of(row: dict[str, Any]) -> str:
    return row["prompt"][-1]["content"]


def training_rows(rows: Rows, share: float) -> Rows:
    """The rows of the prompts that are not held out, or of a share of these prompts."""
    prompts = list(dict.fromkeys(prompt_of(row) for row in rows if fold_of(prompt_of(row), FOLDS)))
    kept = set(prompts[: round(share * len(prompts))])
    return [row for row in rows if prompt_of(row) in kept]


def held_out_steps(rows: Rows, policy: Any, folder: Path) -> Steps:
    """The steps of the responses that are judged. What the policy says of them is kept in `folder`."""
    by_prompt: dict[str, Rows] = defaultdict(list)
    for row in rows:
        if not fold_of(prompt_of(row), FOLDS):
            by_prompt[prompt_of(row)].append(row)
    judged = [row for group in by_prompt.values() if len(group) >= JUDGED for row in group[:JUDGED]]
    longest = max(len(row["completion_ids"]) for row in judged)
    responses = [(row["prompt_ids"] + row["completion_ids"], len(row["prompt_ids"])) for row in judged]
    store = HiddenStateStore(folder, NextTokenRewardModel.from_policy(policy, rank=1), policy, ROLLOUTS["top_k"])
    store.add(responses)
    candidates, scores = [], []
    for response in responses:
        ids, probabilities = store.read_candidates(*response)
        place = torch.arange(longest).clamp(max=len(ids) - 1)
        candidates.append(ids[place].long())
        scores.append(probabilities[place].log())
    return Steps(judged, torch.stack(candidates), torch.stack(scores))


@torch.inference_mode()
def moments_of(model: Any, steps: Steps, tokenizer: Any) -> Moments:
    """Writes the responses again, all in one batch, with a processor that reads the increments of all candidates.

    Returns:
        The moments summed over the steps of each response, float64, shape `[responses]`.
    """
    prompts = encode_batch(tokenizer, [row["prompt"] for row in steps.rows])
    written = [torch.tensor(row["completion_ids"]) for row in steps.rows]
    responses = pad_sequence(written, batch_first=True, padding_value=tokenizer.pad_token_id)
    reader = RewardGuidedLogitsProcessor(
        model, 1e-6, steps.candidates.shape[-1], attention_mask=prompts["attention_mask"],
        pad_token_id=tokenizer.pad_token_id, collect_records=True,
    )  # fmt: skip
    lengths = torch.tensor([len(own) for own in written])
    vocabulary = model.config.get_text_config().vocab_size
    sums = torch.zeros(3, len(written), dtype=torch.float64)
    for step, own in enumerate(responses.T):
        scores = torch.full((len(written), vocabulary), -torch.inf)
        scores.scatter_(1, steps.candidates[:, step], steps.scores[:, step])
        reader(torch.cat([prompts["input_ids"], responses[:, :step]], 1), scores)
        found = reader.stats.records.pop()
        hit = found.candidate_ids == own[:, None]
        moments = moments_of_steps(found.policy.exp().double(), found.increments.double(), hit)
        # Rows that have ended go on with padding, which does not count.
        sums += torch.stack(moments).where(step < lengths, 0.0)
    return Moments(*sums)


def judge(moments: Moments, gold: Tensor, first: Tensor | None) -> tuple[dict[str, Any], Tensor]:
    """The row of a trial, and its slopes, which are compared with those of the first."""
    slopes = gold * moments.written / moments.variance.mean().sqrt()
    written, drift, whole = (
        centre(each.tolist(), JUDGED) for each in (moments.written, moments.mean, moments.written + moments.mean)
    )
    row: dict[str, Any] = {"slope": estimate(slopes.tolist())}
    if first is not None:
        row["minus the first"] = compare(slopes, first)
    row |= {
        "reward and increments": correlation(gold, written),
        "reward and the whole": correlation(gold, whole),
        "taken back": correlation(written, drift),
    }
    return row, slopes


def correlation(one: Tensor, other: Tensor) -> float:
    """Of two that have a mean of 0."""
    return float((one * other).sum() / (one.square().sum() * other.square().sum()).sqrt())


def train_trials(options: argparse.Namespace, task: str) -> None:
    _, tokenizer = load_policy()
    rows = rated_rollouts(options.folder, task, options.seed)
    for kind in options.trials:
        trial, target = TRIALS[kind], folder_of(options, task, kind)
        if not target.exists():
            own, layers = training_rows(rows, trial.share), trial.num_layers or options.num_layers
            shared = {"seed": options.seed, "num_layers": layers}
            train_on_rows(trial.kind, target, tokenizer, own, **shared, **trial.settings)


def folder_of(options: argparse.Namespace, task: str, kind: str) -> Path:
    return options.folder / f"trial-{task}-{kind}-{options.seed}"


def report(options: argparse.Namespace, task: str) -> list[dict[str, Any]]:
    policy, tokenizer = load_policy()
    steps = held_out_steps(rated_rollouts(options.folder, task, options.seed), policy, options.folder / "steps")
    gold = centre([row["reward"] for row in steps.rows], JUDGED)
    results, first = [], None
    for kind, trial in TRIALS.items():
        saved = folder_of(options, task, kind)
        if not saved.exists():
            continue
        model = load_reward_model(saved)
        if isinstance(model, NextTokenRewardModel):
            model.attach(policy)
        row, slopes = judge(moments_of(model, steps, tokenizer), gold, first)
        first = slopes if first is None else first
        results.append({"trial": kind, "name": trial.name} | row)
        print(results[-1], flush=True)
    return results


def table(rows: list[dict[str, Any]]) -> str:
    """The table of the page."""
    lines = [["trial", "slope", "minus the first", "R and S", "R and S + D", "S and D"]]
    for row in rows:
        numbers = [row[name] for name in ("reward and increments", "reward and the whole", "taken back")]
        slopes = [_with_error(row.get(name)) for name in ("slope", "minus the first")]
        lines.append([row["name"], *slopes, *(f"{number:.2f}" for number in numbers)])
    return markdown_table(lines)


def _with_error(found: list[float] | None) -> str:
    return "" if found is None else f"{found[0]:.1f} ± {found[1]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("--folder", type=Path, default=Path("outputs/baselines"), help="of rollouts and models")
    add("--stages", nargs="+", choices=("train", "report"), default=["train", "report"])
    add("--tasks", nargs="+", choices=TASKS, default=["plain"])
    add("--trials", nargs="+", choices=TRIALS, default=list(TRIALS), help="models to train")
    add("--seed", type=int, default=0, help="of rollouts and training")
    add("--num_layers", type=int, default=4, help="of the models")
    add("--output", type=Path, help="folder of the result (default: benchmarks/results)")
    options = parser.parse_args()
    for task in options.tasks:
        if "train" in options.stages:
            train_trials(options, task)
    if "report" in options.stages:
        results = {task: report(options, task) for task in options.tasks}
        used = settings_of(options)
        print(record("value_trials", used | {"rollouts": ROLLOUTS}, results, options.output))
        if options.output is None and "plain" in results:
            page = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(fill(page, {"value-trials": table(results["plain"])}), encoding="utf-8")


if __name__ == "__main__":
    main()
