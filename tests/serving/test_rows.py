"""Rows that come and go have the increments of whole sequences, each for itself."""

import random

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.scoring import choose
from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.scorer import PrefixBatch
from rgtg_hf.serving.rows import cache_bytes_per_token, make_row_scorer
from tests.tiny_models import VOCAB_SIZE, tiny_next_token_model, tiny_policy, tiny_reward_model, tiny_steering_head

KINDS = {"siblings": tiny_reward_model, "next_token": tiny_next_token_model}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_rows_get_the_increments_of_whole_sequences_whatever_the_others_do(kind, seed):
    chance = random.Random(seed)
    model = KINDS[kind]()
    scorer, reference = make_row_scorer(model), ReferenceScorer(model)
    prefixes = []
    for _ in range(15):
        while not prefixes or chance.random() < 0.3:
            prefixes.append([chance.randrange(3, VOCAB_SIZE) for _ in range(chance.randrange(1, 25))])
        if len(prefixes) > 1 and scorer.row_count == len(prefixes) and chance.random() < 0.3:
            gone = chance.randrange(len(prefixes))
            assert scorer.forget(gone) == len(prefixes) - 1
            prefixes[gone] = prefixes[-1]
            prefixes.pop()
        order = chance.sample(range(len(prefixes)), len(prefixes))
        candidates = torch.tensor([[chance.randrange(VOCAB_SIZE) for _ in range(4)] for _ in order])
        wanted = torch.tensor([[chance.random() < 0.6 for _ in range(4)] for _ in order])
        wanted &= torch.tensor([[chance.random() < 0.7] for _ in order])
        found = scorer.score(order, [prefixes[row] for row in order], candidates, wanted)
        assert found.dtype == torch.float32
        assert not found[~wanted].any()
        for place, row in enumerate(order):
            ids = torch.tensor([prefixes[row]])
            step = PrefixBatch(ids, torch.ones_like(ids), ids.shape[1]), candidates[place : place + 1]
            expected = reference.score(*step, wanted[place : place + 1])
            assert_close(found[place : place + 1], expected, atol=1e-4, rtol=1e-4)
        for prefix in prefixes:
            prefix.append(chance.randrange(VOCAB_SIZE))


def test_a_prompt_that_arrives_is_read_without_the_others():
    scorer = make_row_scorer(tiny_reward_model())
    candidates, wanted = torch.tensor([[5], [6]]), torch.ones(2, 1, dtype=torch.bool)
    scorer.score([0], [list(range(3, 30))], candidates[:1], wanted[:1])
    before = scorer.reader.tokens_computed
    scorer.score([0, 1], [list(range(3, 31)), list(range(5, 35))], candidates, wanted)
    assert scorer.reader.tokens_computed - before == 29 + 2 * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_without_wanted_candidates_is_not_read(kind):
    scorer = make_row_scorer(KINDS[kind]())
    candidates, wanted = torch.tensor([[5], [6]]), torch.tensor([[True], [False]])
    scorer.score([0, 1], [list(range(3, 30)), [7, 8]], candidates, wanted)
    assert list(map(len, scorer.reader.tokens)) == [27, 0]
    scorer.score([1], [[7, 8]], candidates[1:], wanted[:1])
    assert list(map(len, scorer.reader.tokens)) == [27, 2]


def test_the_last_row_frees_the_memory():
    scorer = make_row_scorer(tiny_reward_model())
    scorer.score([0], [[5, 6]], torch.tensor([[7]]), torch.tensor([[True]]))
    scorer.forget(0)
    assert scorer.row_count == 0
    assert not scorer.reader.buffer.layers


def test_a_token_takes_keys_and_values_of_all_layers():
    model = tiny_reward_model()
    heads, size = model.config.num_key_value_heads, model.config.hidden_size // model.config.num_attention_heads
    assert cache_bytes_per_token(model) == 2 * model.config.num_hidden_layers * heads * size * 4


def test_models_that_cannot_be_served_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="no backbone of its own"):
        make_row_scorer(tiny_steering_head(tiny_policy()))
    with pytest.raises(ValueError, match=r"'siblings', which for a Bloom.* is refused by the model"):
        make_row_scorer(tiny_reward_model("bloom"))

    def no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(choose.SCORERS["siblings"], "score", no_memory)
    with pytest.raises(RuntimeError, match=r"could not be tried .*out of memory.*start again"):
        make_row_scorer(tiny_reward_model())
