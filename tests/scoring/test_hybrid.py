"""Candidates of hybrid models share keys and values, and a step is one pass over them."""

import pytest
import torch

from rgtg_hf.scoring.choose import choose_scorer
from rgtg_hf.scoring.expand import ExpandScorer
from rgtg_hf.scoring.hybrid import HybridScorer
from rgtg_hf.scoring.reference import ReferenceScorer
from rgtg_hf.scoring.scorer import PrefixBatch
from rgtg_hf.training.models import load_for_training
from tests.families import AVAILABLE, CACHED_SINCE, CLASSIFIED, EVERY, TRIED_SINCE, tiny_language_model
from tests.scoring.generations import assert_equal_scores, generation, partly_wanted
from tests.tiny_models import VOCAB_SIZE, tiny_reward_model
from tests.versions import is_at_least

HYBRIDS = (
    *("bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear", "lfm2_moe", "lfm3", "mamba"),
    *("mamba2", "nemotron_h", "olmo_hybrid", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "zamba", "zamba2"),
    "zaya",
)
ALWAYS = ("falcon_h1", "mamba", "qwen3_next")  # attention beside a state, states alone, layers of either kind
THERE = [
    pytest.param(family, marks=() if family in ALWAYS else pytest.mark.slow)
    for family in HYBRIDS
    if family in {*AVAILABLE, *EVERY, *CLASSIFIED}
    and is_at_least(CACHED_SINCE.get(family, "5"))
    and is_at_least(TRIED_SINCE.get(family, "5"))
]


@pytest.mark.parametrize("family", THERE)
def test_increments_are_right_for_every_hybrid_family_and_its_scorer_is_chosen(family, tmp_path):
    tiny_language_model(family).save_pretrained(tmp_path)
    reward_model = load_for_training(str(tmp_path))
    torch.nn.init.normal_(reward_model.score.weight)
    scorer = choose_scorer(reward_model)
    assert type(scorer) is HybridScorer
    for choose in (True, False):
        for seed in (0, 1):
            steps = partly_wanted(seed, vocab_size=60, choose=choose)
            # The probe compared it with whole sequences, which some families round differently.
            assert_equal_scores(scorer, ExpandScorer(reward_model), steps)


@pytest.mark.parametrize("choose", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_increments_are_right_wherever_rows_go(seed, choose):
    reward_model = tiny_reward_model("jamba")
    steps = list(partly_wanted(seed, choose=choose)) + list(generation(seed, choose=choose))
    assert_equal_scores(HybridScorer(reward_model), ReferenceScorer(reward_model), steps, tolerance=1e-3)


def test_a_step_reads_the_candidates_alone_when_one_of_them_was_chosen():
    scorer = HybridScorer(tiny_reward_model("jamba"))
    spent = []
    for prefixes, candidates in generation(steps=4, choose=True):
        before = scorer.tokens_computed
        scorer.score(prefixes, candidates)
        spent.append(scorer.tokens_computed - before)
    assert spent[1:] == [candidates.numel()] * 3


def test_rows_that_have_ended_cost_a_token_and_do_not_hold_the_others_up():
    scorer = HybridScorer(tiny_reward_model("jamba"))
    ids, candidates = torch.tensor([[5, 6, 7], [8, 9, 2]]), torch.tensor([[10, 11], [12, 13]])
    wanted, spent = torch.tensor([[True, True], [False, False]]), []
    for _ in range(4):
        before = scorer.tokens_computed
        scorer.score(PrefixBatch(ids, torch.ones_like(ids), 2), candidates, wanted)
        spent.append(scorer.tokens_computed - before)
        ids = torch.cat([ids, torch.tensor([[11], [2]])], dim=1)
    assert spent[1:] == [2 + 1] * 3


def test_a_change_of_weights_between_steps_is_noticed():
    reward_model = tiny_reward_model("jamba")
    scorer, steps = HybridScorer(reward_model), list(generation(steps=3, choose=True))
    scorer.score(*steps[0])
    with torch.no_grad():
        reward_model.model.embed_tokens.weight.mul_(1.1)
    assert_equal_scores(scorer, ReferenceScorer(reward_model), steps[1:])


def test_a_failed_pass_leaves_nothing_wrong(monkeypatch):
    reward_model = tiny_reward_model("jamba")
    scorer, steps = HybridScorer(reward_model), list(generation(steps=4, choose=True))
    scorer.score(*steps[0])
    with monkeypatch.context() as patch:
        patch.setattr(scorer, "head", lambda hidden: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scorer.score(*steps[1])
    assert reward_model.config._attn_implementation == "sdpa"
    assert_equal_scores(scorer, ReferenceScorer(reward_model), steps[1:])


def test_what_was_read_before_a_failed_pass_is_not_followed(monkeypatch):
    reward_model = tiny_reward_model("jamba")
    scorer, candidates = HybridScorer(reward_model), torch.tensor([[10, 11]])

    def after(*tokens):
        ids = torch.tensor([[5, 6, 7, *tokens]])
        return PrefixBatch(ids, torch.ones_like(ids), 3), candidates

    scorer.score(*after())
    with monkeypatch.context() as patch:
        patch.setattr(scorer, "_read", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scorer.score(*after(9))  # none of the candidates, so the cache goes on to it
    assert_equal_scores(scorer, ReferenceScorer(reward_model), [after(10), after(10, 11)])


def test_models_without_recurrent_layers_or_with_windows_are_refused():
    with pytest.raises(ValueError, match=r"hybrids of full attention and recurrent layers .* \['DynamicLayer'\]"):
        HybridScorer(tiny_reward_model())
    with pytest.raises(ValueError, match="DynamicSlidingWindowLayer"):
        HybridScorer(tiny_reward_model("gemma3"))


def test_what_is_held_is_one_cache_and_a_state_per_candidate():
    scorer, k = HybridScorer(tiny_reward_model("jamba", max_position_embeddings=512)), 4
    ids = torch.randint(3, VOCAB_SIZE, (1, 300), generator=torch.Generator().manual_seed(0))
    for end in range(280, 300):
        candidates = (ids[:, end : end + 1] + torch.arange(k)) % VOCAB_SIZE
        scorer.score(PrefixBatch(ids[:, :end], torch.ones_like(ids[:, :end]), 280), candidates)
    layers = scorer.cache.cache.layers
    keys = [layer.keys for layer in layers if getattr(layer, "keys", None) is not None]
    assert [tuple(part.shape[:3]) for part in keys] == [(1, 2, 299)] * 2
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in keys)
