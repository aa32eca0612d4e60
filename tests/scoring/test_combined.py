"""Several rewards add up by their weights."""

import pytest
from torch.testing import assert_close

from rgtg_hf.scoring.choose import choose_scorer
from rgtg_hf.scoring.combined import CombinedScorer
from rgtg_hf.scoring.text.whole_texts import CallableScorer
from tests.scoring.text.text_models import BYTES, length, text_generation
from tests.tiny_models import tiny_reward_model


def test_several_rewards_add_up_with_their_weights():
    vocab_size = len(BYTES)
    models = [tiny_reward_model(seed=seed, vocab_size=vocab_size) for seed in (4, 5)]

    def scorers():
        return [*map(choose_scorer, models), CallableScorer(length, BYTES)]

    weights = [1.0, -0.5, 2]
    combined, single = CombinedScorer(scorers(), weights), scorers()
    for step in text_generation():
        parts = [scorer.score(*step) for scorer in single]
        assert_close(combined.score(*step), sum(weight * part for weight, part in zip(weights, parts, strict=True)))
    assert combined.tokens_computed == sum(scorer.tokens_computed for scorer in single)
    combined.reset()
    assert all(scorer.reader.held is None for scorer in combined.scorers[:2])


def test_the_vocabulary_that_can_be_read_is_the_smallest():
    text = CallableScorer(length, BYTES)
    small, large = (choose_scorer(tiny_reward_model(vocab_size=size)) for size in (30, 50))
    assert (small.vocabulary_size, large.vocabulary_size, text.vocabulary_size) == (30, 50, None)
    assert CombinedScorer([large, text, small]).vocabulary_size == 30
    assert CombinedScorer([text]).vocabulary_size is None


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1.0], ValueError, "1 numbers for 2 reward models"),
        ([1.0, float("nan")], ValueError, "holds nan"),
        ([1.0, "2"], TypeError, "holds '2'"),
        (0.5, TypeError, "`weights` is 0.5"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, error, message):
    with pytest.raises(error, match=message):
        CombinedScorer([CallableScorer(length, BYTES)] * 2, weights)
