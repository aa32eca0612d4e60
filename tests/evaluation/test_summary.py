import pytest

from rgtg_hf.evaluation.sampling import SampledResponses
from rgtg_hf.evaluation.summary import MethodRun, markdown_table, summarize


def run(gold, steering=None, seconds=2.0):
    texts = [f"response number {place} of many words" for place in range(len(gold))]
    sampled = SampledResponses(
        texts, [1.0, 3.0, 2.0], 12, seconds, [[5, 6, 7, 2]] * 3, [-4.0, -4.0, -4.0], reward_model_tokens=24
    )
    return MethodRun(sampled, gold, steering)


PLAIN = [run([0.0, 1.0, 2.0]), run([2.0, 1.0, 0.0])]


def test_errors_are_over_prompts_after_the_mean_over_runs():
    row = summarize("guided", 1.5, [run([3.0, 3.0, 3.0], [1.0, 2.0, 3.0]), run([5.0, 5.0, 5.0], [4.0] * 3)], PLAIN)
    assert (row.gold, row.gold_se, row.gain, row.gain_se) == (4.0, 0.0, 3.0, 0.0)
    assert (row.gain_low, row.gain_high) == (3.0, 3.0)
    assert (row.runs, row.prompts, row.gold_by_run) == (2, 3, [3.0, 5.0])
    assert row.win_rate == 1.0
    assert row.steering_reward == 3.0
    assert (row.kl, row.tokens, row.tokens_per_s, row.reward_model_tokens) == (2.0, 4.0, 6.0, 2.0)
    assert row.perplexity == pytest.approx(2.718281828)


def test_the_policy_against_itself_gains_nothing_and_wins_half():
    row = summarize("policy", 0.0, PLAIN, PLAIN)
    assert (row.gain, row.gain_low, row.gain_high) == (0.0, 0.0, 0.0)
    assert row.win_rate == 0.5
    assert row.steering_reward is None


def test_the_table_says_where_a_divergence_is_a_bound():
    rows = [
        summarize("policy", 0.0, PLAIN, PLAIN),
        summarize("best-of-n", 8.0, PLAIN, PLAIN, kl_is_bound=True),
    ]
    lines = markdown_table(rows).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert "≤ 2.00" in lines[3]
    assert "≤" not in lines[2]
