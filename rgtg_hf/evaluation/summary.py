"""Summarizes all measures of a method in one row, and shows rows as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rgtg_hf.evaluation.sampling import SampledResponses
from rgtg_hf.evaluation.statistics import bootstrap_interval, mean_with_error, paired_difference, win_rate
from rgtg_hf.evaluation.text_metrics import distinct_n, perplexity, repetition, self_bleu

__all__ = ["COLUMNS", "MethodRun", "MethodSummary", "markdown_table", "summarize"]


@dataclass(frozen=True)
class MethodRun:
    """The responses of a method, one per prompt, and their rewards.

    Attributes:
        sampled: The responses.
        gold: Gold reward per prompt.
        steering: Rewards of the responses by the reward model that steered; None if the method uses no reward model.
        second: Rewards by a second, independent judge; None if there is none.
    """

    sampled: SampledResponses
    gold: list[float]
    steering: list[float] | None = None
    second: list[float] | None = None


@dataclass(frozen=True)
class MethodSummary:
    """The results of a method. Standard errors and intervals are over prompts, after the mean over runs.

    Attributes:
        method: Name of the method.
        strength: Beta, or the number of responses of best-of-n.
        runs: Number of runs, one per seed.
        prompts: Number of prompts per run.
        gold: Mean gold reward.
        gold_se: Standard error of `gold`.
        gain: Mean over prompts of the gold reward minus the sampled policy's on the same prompt.
        gain_se: Standard error of `gain`.
        gain_low: Lower end of the 95 % interval of `gain` by paired bootstrap.
        gain_high: Upper end of that interval.
        win_rate: Share of prompts on which the gold reward is above the policy's. Ties count half.
        win_rate_se: Standard error of `win_rate`.
        kl: Divergence from the policy in nats per response.
        kl_is_bound: Whether `kl` is an upper bound (best-of-n) instead of the exact sum over steps.
        steering_reward: Mean reward by the model that steered; None if the method uses no reward model.
        perplexity: Perplexity per token under the unguided policy; None if it was not measured.
        distinct_1: Share of different words among all words.
        distinct_2: The same for pairs of words.
        distinct_3: The same for triples of words.
        self_bleu: Similarity of the responses to each other, from 0 to 100.
        repetition: Share of 4-grams that repeat an earlier one in the same response.
        tokens: Mean length of a response, including its end-of-sequence token.
        tokens_per_s: Generated tokens per second, all prompts in one batch; None if it was not measured.
        reward_model_tokens: Reward-model tokens per generated token, including prompts and padding; None if it was
            not measured.
        gold_by_run: Mean gold reward of each run.
        second_gold: Mean reward by a second judge; None if there is none. So the next three.
        second_gold_se: Standard error of `second_gold`.
        second_gain_low: Lower end of the 95 % interval of its mean above the policy's on the same prompt.
        second_gain_high: Upper end of that interval.
    """

    method: str
    strength: float
    runs: int
    prompts: int
    gold: float
    gold_se: float
    gain: float
    gain_se: float
    gain_low: float
    gain_high: float
    win_rate: float
    win_rate_se: float
    kl: float
    kl_is_bound: bool
    steering_reward: float | None
    perplexity: float | None
    distinct_1: float
    distinct_2: float
    distinct_3: float
    self_bleu: float
    repetition: float
    tokens: float
    tokens_per_s: float | None
    reward_model_tokens: float | None
    gold_by_run: list[float]
    second_gold: float | None = None
    second_gold_se: float | None = None
    second_gain_low: float | None = None
    second_gain_high: float | None = None

    @property
    def overfits(self) -> bool:
        """Whether the gold reward rises and the second one falls, each by more than its interval."""
        return self.gain_low > 0 and self.second_gain_high is not None and self.second_gain_high < 0


def summarize(
    method: str,
    strength: float,
    runs: Sequence[MethodRun],
    unguided: Sequence[MethodRun],
    *,
    kl_is_bound: bool = False,
) -> MethodSummary:
    """Summarizes the runs of a method.

    Args:
        method: Name of the method.
        strength: Strength of steering.
        runs: One run per seed, on the same prompts.
        unguided: The runs of the sampled policy on these prompts.
        kl_is_bound: Whether the divergences are upper bounds.

    Returns:
        The row.

    Raises:
        ValueError: If there are no runs, or fewer than two prompts.
    """
    gold, plain = (_per_prompt([run.gold for run in those]) for those in (runs, unguided))
    difference = paired_difference(gold, plain)
    low, high = _interval(gold, plain)
    # Wins are counted for each pair of responses, because means over seeds almost never tie.
    pairs = [(run, other) for run in runs for other in unguided]
    wins = [win_rate(run.gold, other.gold) for run, other in pairs]
    lengths = [[len(ids) for ids in run.sampled.ids] for run in runs]
    steering = [value for run in runs if run.steering is not None for value in run.steering]

    def mean_of(measure):  # type: ignore[no-untyped-def]
        return fmean(measure(run.sampled) for run in runs)

    timed = [run.sampled for run in runs if run.sampled.seconds]
    likely = [run.sampled for run in runs if run.sampled.log_likelihoods]
    return MethodSummary(
        method=method,
        strength=strength,
        runs=len(runs),
        prompts=len(gold),
        gold=mean_with_error(gold).mean,
        gold_se=mean_with_error(gold).error,
        gain=difference.mean,
        gain_se=difference.error,
        gain_low=low,
        gain_high=high,
        win_rate=fmean(rate.mean for rate in wins),
        win_rate_se=fmean(rate.error for rate in wins),
        kl=mean_of(lambda sampled: fmean(sampled.divergences)),
        kl_is_bound=kl_is_bound,
        steering_reward=fmean(steering) if steering else None,
        perplexity=_mean(perplexity(sampled.log_likelihoods, list(map(len, sampled.ids))) for sampled in likely),
        distinct_1=mean_of(lambda sampled: distinct_n(sampled.texts, 1)),
        distinct_2=mean_of(lambda sampled: distinct_n(sampled.texts, 2)),
        distinct_3=mean_of(lambda sampled: distinct_n(sampled.texts, 3)),
        self_bleu=mean_of(lambda sampled: self_bleu(sampled.texts)),
        repetition=mean_of(lambda sampled: repetition(sampled.texts)),
        tokens=fmean(count for tokens in lengths for count in tokens),
        tokens_per_s=_mean(sampled.tokens_per_second for sampled in timed),
        reward_model_tokens=_mean(sampled.reward_model_tokens / max(1, sampled.tokens) for sampled in timed),
        gold_by_run=[fmean(run.gold) for run in runs],
        **_second(runs, unguided),
    )


def _second(runs: Sequence[MethodRun], unguided: Sequence[MethodRun]) -> dict[str, float]:
    both = [[run.second for run in those if run.second is not None] for those in (runs, unguided)]
    if not all(both):
        return {}
    second, plain = map(_per_prompt, both)
    mean, error = mean_with_error(second)
    low, high = _interval(second, plain)
    return {"second_gold": mean, "second_gold_se": error, "second_gain_low": low, "second_gain_high": high}


def _interval(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    low, high = bootstrap_interval([a - b for a, b in zip(ours, theirs, strict=True)])
    return low, high


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return fmean(known) if known else None


def _per_prompt(runs: Sequence[list[float]]) -> list[float]:
    return [fmean(values) for values in zip(*runs, strict=True)]


def _second_shown(row: MethodSummary) -> str:
    if row.second_gold is None:
        return ""
    gain = f" [{row.second_gain_low:+.2g}, {row.second_gain_high:+.2g}]"
    return f"{row.second_gold:.3g} ± {row.second_gold_se:.2g}{gain}"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


# How each measure is shown in a table.
COLUMNS: dict[str, Callable[[MethodSummary], str]] = {
    "method": lambda row: row.method,
    "strength": lambda row: f"{row.strength:g}" if row.strength else "",
    "gold": lambda row: f"{row.gold:.3g} ± {row.gold_se:.2g}",
    "gain [95 %]": lambda row: f"{row.gain:+.3g} [{row.gain_low:+.2g}, {row.gain_high:+.2g}]",
    "second gold [gain, 95 %]": _second_shown,
    "wins": lambda row: f"{row.win_rate:.0%} ± {row.win_rate_se:.0%}",
    "KL": lambda row: f"{'≤ ' if row.kl_is_bound else ''}{row.kl:.2f}",
    "steering reward": lambda row: _shown(row.steering_reward, ".2f"),
    "perplexity": lambda row: _shown(row.perplexity, ".2f"),
    "distinct 1/2/3": lambda row: f"{row.distinct_1:.2f}/{row.distinct_2:.2f}/{row.distinct_3:.2f}",
    "self-BLEU": lambda row: f"{row.self_bleu:.1f}",
    "repetition": lambda row: f"{row.repetition:.3f}",
    "length": lambda row: f"{row.tokens:.1f}",
    "tokens/s": lambda row: _shown(row.tokens_per_s, ".0f"),
    "RM tokens": lambda row: _shown(row.reward_model_tokens, ".1f"),
}


def markdown_table(rows: Sequence[MethodSummary]) -> str:
    """Formats rows as a Markdown table.

    Args:
        rows: Results of [`summarize`].

    Returns:
        The lines of the table. KL is in nats per response, with "≤" if it is an upper bound. "RM tokens" are
        reward-model tokens per generated token. A second judge has a column if there is one.
    """
    judged_twice = any(row.second_gold is not None for row in rows)
    columns = {name: show for name, show in COLUMNS.items() if judged_twice or show is not _second_shown}
    lines = [list(columns), ["---"] * len(columns), *([show(row) for show in columns.values()] for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
