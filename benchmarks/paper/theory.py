"""How far are ARGS and PARGS from the optimum of RLHF, exactly? Everything is enumerated on a tiny vocabulary.

    python -m benchmarks.paper.theory

A policy pi and a reward R of whole responses are drawn at random. Then RLHF's optimum is known,
pi*(y) ∝ pi(y) exp(beta R(y)), and so is the distance of any policy from it, KL(. || pi*). That distance is the loss of
the policy in RLHF's own objective, beta E[R] - KL(. || pi). The benchmark compares tokenwise policies,
pi(v | y_<t) exp(beta r(y_<t v)), with these prefix rewards:

  prefix   the least Bradley-Terry loss over all prefixes, for preferences that follow R (PARGS);
  full     R on whole responses, and on prefixes random numbers of the same spread: a reward model of whole responses
           without any loss (ARGS, at its most arbitrary);
  kind     as `full`, but on prefixes the mean of R over the possible continuations: the best that training on whole
           responses could give;
  optimal  log E[exp(beta R)] / beta over the possible continuations, which makes the tokenwise policy RLHF's optimum.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import ROOT, record
from rgtg_hf.evaluation.chart import Series, draw_series

VOCABULARY, LENGTH = 4, 4
BETAS = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
KINDS = ("prefix", "full", "kind", "optimal")
NAMES = {
    "prefix": "PARGS",
    "full": "ARGS, prefix scores arbitrary",
    "kind": "ARGS, prefix scores the mean reward",
    "optimal": "RLHF's optimum",
}

Tables = list[Tensor]  # one per length: entry [y_1, ..., y_i] belongs to that prefix


def draw_problem(seed: int) -> tuple[Tables, Tensor]:
    """A policy's conditional log-probabilities, and the rewards of whole responses with a spread of 1."""
    torch.manual_seed(seed)
    shapes = [[VOCABULARY] * i for i in range(1, LENGTH + 1)]
    policy = [torch.randn(shape, dtype=torch.float64).log_softmax(-1) for shape in shapes]
    # A token also affects the reward of what follows, so prefixes carry information about the whole.
    reward = sum(torch.randn(shape, dtype=torch.float64)[(..., *[None] * (LENGTH - len(shape)))] for shape in shapes)
    return policy, (reward - reward.mean()) / reward.std()


def joint(conditionals: Tables) -> Tensor:
    """Log-probabilities of whole responses."""
    total = torch.zeros((), dtype=torch.float64)
    for table in conditionals:
        total = total[..., None] + table
    return total


def tokenwise(policy: Tables, rewards: Tables, beta: float) -> Tensor:
    """The policy, guided token by token."""
    return joint([(p + beta * r).log_softmax(-1) for p, r in zip(policy, rewards, strict=True)])


def expected(policy: Tables, values: Tensor, length: int) -> Tensor:
    """Mean over the policy's continuations of each prefix of `length` tokens."""
    for table in reversed(policy[length:]):
        values = (table.exp() * values).sum(-1)
    return values


def prefix_rewards(policy: Tables, reward: Tensor) -> Tables:
    """Tables of least Bradley-Terry loss over prefixes, for pairs sampled from the policy and ranked by R."""
    chances = joint(policy).exp().flatten()
    preferred = torch.sigmoid(reward.flatten()[:, None] - reward.flatten())  # chance that the row beats the column
    weights = chances[:, None] * chances
    tables = []
    for length in range(1, LENGTH + 1):
        count = VOCABULARY**length
        blocks = [count, VOCABULARY ** (LENGTH - length)] * 2
        mass = weights.view(blocks).sum((1, 3))
        wins = (weights * preferred).view(blocks).sum((1, 3))
        tables.append(_least_loss(wins, mass - wins).view([VOCABULARY] * length))
    return tables


def _least_loss(wins: Tensor, losses: Tensor) -> Tensor:
    """The scores of least Bradley-Terry loss, given the row's wins over the column and losses to it (convex)."""
    scores = torch.zeros(len(wins), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [scores], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        margin = scores[:, None] - scores
        value = -(wins * margin.sigmoid().log() + losses * (-margin).sigmoid().log()).sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    return scores.detach()


def reward_tables(kind: str, policy: Tables, reward: Tensor, beta: float, trained: Tables) -> Tables:
    if kind == "prefix":
        return trained
    if kind == "full":
        return [*(torch.randn_like(table) for table in policy[:-1]), reward]
    if kind == "kind":
        return [expected(policy, reward, length) for length in range(1, LENGTH + 1)]
    return [expected(policy, (beta * reward).exp(), length).log() / beta for length in range(1, LENGTH + 1)]


def measure(problem: int) -> list[dict[str, Any]]:
    policy, reward = draw_problem(problem)
    plain, trained = joint(policy), prefix_rewards(policy, reward)
    rows = []
    for beta in BETAS:
        optimum = (plain + beta * reward).flatten().log_softmax(-1).view_as(plain)
        for kind in KINDS:
            steered = tokenwise(policy, reward_tables(kind, policy, reward, beta, trained), beta)
            rows.append(
                {
                    "problem": problem,
                    "beta": beta,
                    "kind": kind,
                    "reward": float((steered.exp() * reward).sum()),
                    "kl_to_policy": float((steered.exp() * (steered - plain)).sum()),
                    "kl_to_optimum": float((steered.exp() * (steered - optimum)).sum()),
                    "ratio_law": ratio_law(policy, trained, beta) if kind == "prefix" else None,
                }
            )
    return rows


def ratio_law(policy: Tables, rewards: Tables, beta: float) -> float:
    """Checks the paper's theorem and returns the largest difference in probability.

    The tokenwise policy is the renormalised ratio of two sequence-level RLHF policies, whose prefixes differ by one
    token.
    """
    worst = 0.0
    for length in range(2, LENGTH + 1):
        longer, shorter = (
            (joint(policy[:size]) + beta * rewards[size - 1]).flatten().softmax(-1).view([VOCABULARY] * size)
            for size in (length, length - 1)
        )
        ratio = longer / shorter[..., None]
        stepwise = (policy[length - 1] + beta * rewards[length - 1]).softmax(-1)
        worst = max(worst, float((ratio / ratio.sum(-1, keepdim=True) - stepwise).abs().max()))
    return worst


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    summary = []
    for beta in BETAS:
        for kind in KINDS:
            at = [row for row in rows if row["beta"] == beta and row["kind"] == kind]
            entry: dict[str, Any] = {"beta": beta, "kind": kind}
            for figure in ("reward", "kl_to_policy", "kl_to_optimum"):
                values = [row[figure] for row in at]
                entry[figure] = statistics.mean(values)
                entry[f"{figure}_se"] = statistics.stdev(values) / len(values) ** 0.5
            summary.append(entry)
    return summary


def draw(summary: list[dict[str, Any]], folder: Path) -> None:
    distance, frontier = [], []
    for kind in KINDS:
        rows = [row for row in summary if row["kind"] == kind]
        if kind != "optimal":
            errors = [row["kl_to_optimum_se"] for row in rows]
            distance.append(Series(NAMES[kind], BETAS, [row["kl_to_optimum"] for row in rows], errors))
        reward, kl = [row["reward"] for row in rows], [row["kl_to_policy"] for row in rows]
        frontier.append(Series(NAMES[kind], kl, reward, [row["reward_se"] for row in rows]))
    draw_series(
        distance,
        folder / "theory_distance.svg",
        title="Distance from RLHF's optimum, exact",
        x_name="beta",
        y_name="KL(steered || optimum), nats",
        log_x=True,
    )
    draw_series(
        frontier,
        folder / "theory_frontier.svg",
        title="Reward and divergence, exact",
        x_name="KL to the policy, nats per response",
        y_name="expected reward, in standard deviations",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=50, help="random policies and rewards")
    parser.add_argument(
        "--output", type=Path, help="folder of the result (default: benchmarks/results, and docs/assets for pictures)"
    )
    options = parser.parse_args()
    rows = [row for problem in range(options.problems) for row in measure(problem)]
    worst = max(row["ratio_law"] for row in rows if row["ratio_law"] is not None)
    optimal = max(row["kl_to_optimum"] for row in rows if row["kind"] == "optimal")
    print(f"largest error of the ratio law: {worst:.1e}; KL to the optimum with optimal prefix rewards: {optimal:.1e}")
    summary = summarize(rows)
    for row in summary:
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    settings = {"vocabulary": VOCABULARY, "length": LENGTH, "problems": options.problems, "betas": BETAS}
    results = {"summary": summary, "largest_error_of_the_ratio_law": worst, "largest_distance_of_the_optimal": optimal}
    print(record("theory", settings, results, options.output))
    draw(summary, options.output or ROOT / "docs" / "assets")


if __name__ == "__main__":
    main()
