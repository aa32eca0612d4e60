"""One step: filters, gate, limits and the finite check, for one setting for all rows or one for each."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.config import RewardGuidanceConfig, resolve_guidance
from rgtg_hf.decoding.step import guide_step, raise_if_not_finite, select_candidates
from tests.test_config import OF_A_STEP, OTHER_VALUES

ROWS, VOCABULARY = 6, 23


def resolved(**settings):
    return resolve_guidance(settings).config


@pytest.fixture
def scores():
    return torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(1)) * 2


@pytest.fixture
def increments():
    return torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(2))


def step(scores, increments, config, **settings):
    return guide_step(scores, config, lambda ids, wanted: increments.gather(1, ids), **settings)


@pytest.mark.parametrize("compare_paths", [False, True])
@pytest.mark.parametrize("name", OF_A_STEP)
def test_rows_with_settings_of_their_own_are_guided_as_if_alone(scores, increments, name, compare_paths):
    configs = [resolved(beta=2.0), resolved(beta=2.0, **{name: OTHER_VALUES[name]} if name != "beta" else {})] * 3
    if name == "beta":
        configs[1::2] = [resolved(beta=0.0)] * 3
    together = step(scores, increments, RewardGuidanceConfig.stacked(configs), compare_paths=compare_paths).scores
    for row, config in enumerate(configs):
        one = slice(row, row + 1)
        alone = step(scores[one], increments[one], config, compare_paths=compare_paths).scores
        assert_close(together[one], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", OF_A_STEP[1:])
def test_every_setting_changes_something(scores, increments, name):
    plain = step(scores, increments, resolved(beta=2.0))
    other = step(scores, increments, resolved(beta=2.0, **{name: OTHER_VALUES[name]}))
    assert not torch.equal(plain.scores, other.scores)


def test_scores_are_not_changed_in_place(scores, increments):
    before = scores.clone()
    step(scores, increments, resolved(beta=2.0, **{name: OTHER_VALUES[name] for name in OF_A_STEP[1:]}))
    assert torch.equal(scores, before)


def test_rows_that_have_ended_follow_the_policy_and_ask_for_nothing(scores, increments):
    going_on = torch.tensor([True, False] * 3)
    found = step(scores, increments, resolved(beta=3.0), going_on=going_on)
    assert not found.wanted[~going_on].any()
    assert found.wanted[going_on].all()
    kept = found.scores[1] > float("-inf")
    assert torch.equal(found.scores[1][kept], scores[1][kept])


def test_nothing_is_scored_where_no_row_has_a_choice(scores):
    def fail(ids, wanted):
        raise AssertionError("scored")

    for config in (resolved(top_k=1), resolved(beta=0.0), resolved(min_entropy=99.0)):
        assert guide_step(scores, config, fail).increments is None


@pytest.mark.parametrize("beta", [0.0, 2.0])
@pytest.mark.parametrize("min_entropy", [0.0, 99.0])
def test_tokens_that_the_reward_model_cannot_read_are_ruled_out_in_every_row(scores, increments, beta, min_entropy):
    scores[:, -3:] = 9.0
    config = resolved(beta=beta, top_k=0, min_entropy=min_entropy)
    found = step(scores, increments, config, vocabulary_size=VOCABULARY - 3)
    assert (found.scores[:, -3:] == float("-inf")).all()
    assert (found.scores[:, :-3] > float("-inf")).all()


def test_a_row_with_a_reward_that_is_not_finite_follows_the_policy_and_is_named(scores, increments):
    increments[2] = float("nan")
    found = step(scores, increments, resolved(beta=2.0))
    fine = step(scores, increments.nan_to_num(0.0), resolved(beta=2.0))
    assert torch.equal(found.not_finite.any(-1), torch.arange(ROWS) == 2)
    assert torch.equal(found.scores[3], fine.scores[3])
    kept = found.scores[2] > float("-inf")
    assert torch.equal(found.scores[2][kept], scores[2][kept])
    with pytest.raises(FloatingPointError, match="row 2, after 7 tokens"):
        raise_if_not_finite(found, 2.0, 7)
    raise_if_not_finite(fine, 2.0, 7)


def test_nan_scores_are_refused(scores, increments):
    scores[1, 4] = float("nan")
    with pytest.raises(FloatingPointError, match="hold NaN"):
        step(scores, increments, resolved())


def test_candidates_have_as_many_columns_as_the_row_with_the_most_needs(scores):
    scores[:, 3:] = float("-inf")
    assert select_candidates(scores, resolved(top_k=9)).ids.shape == (ROWS, 3)


def test_no_more_than_two_looks_at_the_device(scores, increments, monkeypatch):
    looks = []
    for name in ("tolist", "item", "__bool__", "__int__", "__float__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, real=real, name=name: looks.append(name) or real(self))
    step(scores, increments, resolved(beta=2.0, min_entropy=0.5, top_p=0.9, max_step_kl=0.1))
    assert len(looks) <= 2
