"""The fastest scorer that is right is chosen, by trying; a slower one is used with a warning that says why."""

import logging

import pytest
import torch

from rgtg_hf.scoring.choose import READERS, SCORERS, Verdict, choose_reader, choose_scorer, probe, probe_reader
from rgtg_hf.scoring.reference import ReferenceScorer
from tests.scoring.generations import assert_equal_scores
from tests.tiny_models import FAMILIES, tiny_next_token_model, tiny_reward_model

CHOICES = {"scorers": (SCORERS, choose_scorer, probe), "readers": (READERS, choose_reader, probe_reader)}
FASTER = {"scorers": ["siblings", "expand"], "readers": ["siblings"]}


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger="rgtg_hf.scoring.choose")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "rgtg_hf.scoring.choose"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_chosen_scorer_equals_the_reference(family):
    reward_model = tiny_reward_model(family)
    scorer = choose_scorer(reward_model)
    assert type(scorer) is SCORERS[FAMILIES[family][3]]
    assert_equal_scores(scorer, ReferenceScorer(reward_model))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slower_scorer_is_used_with_one_warning(family, warnings):
    reward_model = tiny_reward_model(family)
    for _ in range(3):
        choose_scorer(reward_model)
    if FAMILIES[family][3] in ("siblings", "hybrid"):
        assert warnings() == []
    else:
        (message,) = warnings()
        assert "the slower scorer 'expand', which copies the reward model's cache" in message
        assert "'siblings' is refused" in message or "'siblings' is not right (differs by" in message
        assert "again" not in message


def failing(kind, error):
    """A scorer or reader that raises as long as it is broken."""
    method = "score" if hasattr(kind, "score") else "read"

    def call(self, *arguments):
        if type(self).broken:
            raise error
        return getattr(kind, method)(self, *arguments)

    return type("Failing", (kind,), {"broken": True, method: call})


DEVICE_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    *([torch.AcceleratorError("launch failure")] if hasattr(torch, "AcceleratorError") else []),
]


@pytest.mark.parametrize("what", CHOICES)
@pytest.mark.parametrize("error", DEVICE_ERRORS, ids=lambda error: f"{type(error).__name__}-{str(error)[:12]}")
def test_a_scorer_that_could_not_be_tried_is_tried_again(what, error, warnings, monkeypatch):
    kinds, choose, try_one = CHOICES[what]
    faulty = failing(kinds["siblings"], error)
    monkeypatch.setitem(kinds, "siblings", faulty)
    reward_model = tiny_reward_model()
    for count in (1, 2):
        assert type(choose(reward_model)) is kinds[(*FASTER[what], "reference")[1]]
        assert len(warnings()) == count
        assert "'siblings' could not be tried" in warnings()[-1]
        assert "The next processor will try ['siblings'] again." in warnings()[-1]
    assert not try_one(reward_model, "siblings").final
    faulty.broken = False
    assert type(choose(reward_model)) is faulty
    assert try_one(reward_model, "siblings") == Verdict(True)
    assert len(warnings()) == 2


@pytest.mark.parametrize("what", CHOICES)
@pytest.mark.parametrize("error", [ValueError("no such mask"), RuntimeError("shapes"), TypeError(), KeyError("x")])
def test_a_scorer_that_the_model_refuses_is_not_tried_again(what, error, warnings, monkeypatch):
    kinds, choose, try_one = CHOICES[what]
    faulty = failing(kinds["siblings"], error)
    monkeypatch.setitem(kinds, "siblings", faulty)
    reward_model = tiny_reward_model()
    for _ in range(2):
        assert type(choose(reward_model)) is kinds[(*FASTER[what], "reference")[1]]
        faulty.broken = False
    verdict = try_one(reward_model, "siblings")
    assert verdict.final
    assert f"is refused by the model ({type(error).__name__}" in verdict.reason
    assert len(warnings()) == 1


@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_a_wrong_scorer_does_not_pass_the_probe(size, warnings, monkeypatch):
    class OffByOne(SCORERS["siblings"]):
        def score(self, prefixes, candidate_ids, wanted=None):
            return super().score(prefixes, candidate_ids.roll(1, dims=-1), wanted)

    monkeypatch.setitem(SCORERS, "siblings", OffByOne)
    reward_model = tiny_reward_model()
    reward_model.score.weight.data *= 0.0
    assert probe(reward_model, "siblings") == Verdict(True, final=False)  # rewards of 0 tell nothing
    reward_model.score.weight.data += size * torch.randn(reward_model.score.weight.shape)
    verdict = probe(reward_model, "siblings")
    assert (verdict.right, verdict.final) == (False, True)
    assert type(choose_scorer(reward_model)) is SCORERS["expand"]
    assert "'siblings' is not right (differs by" in warnings()[0]


def test_a_wrong_reader_does_not_pass_the_probe(monkeypatch):
    class OffByOne(READERS["siblings"]):
        def read(self, prefixes, continuations):
            return super().read(prefixes, [[[*one[:-1], 7] if one else one for one in own] for own in continuations])

    monkeypatch.setitem(READERS, "siblings", OffByOne)
    assert not probe_reader(tiny_reward_model(), "siblings").right


@pytest.mark.parametrize("what", CHOICES)
def test_when_nothing_faster_works_whole_sequences_are_read(what, warnings, monkeypatch):
    kinds, choose, _ = CHOICES[what]
    for name in FASTER[what]:
        monkeypatch.setitem(kinds, name, failing(kinds[name], ValueError(f"not {name}")))
    assert type(choose(tiny_reward_model())) is kinds["reference"]
    (message,) = warnings()
    assert "the slower scorer 'reference', which reads the whole sequence again" in message
    assert all(f"not {name}" in message for name in FASTER[what])


@pytest.mark.parametrize("what", CHOICES)
def test_rewards_that_are_not_finite_say_nothing_about_a_scorer(what, warnings):
    _, choose, try_one = CHOICES[what]
    reward_model = tiny_reward_model()
    right = reward_model.score.weight.data.clone()
    reward_model.score.weight.data.fill_(float("nan"))
    choose(reward_model)
    assert "own rewards are not finite" in warnings()[0]
    reward_model.score.weight.data.copy_(right)
    assert try_one(reward_model, "siblings").right


@pytest.mark.parametrize(
    "change", [lambda model: model.to(torch.bfloat16), lambda model: model.set_attn_implementation("eager")]
)
def test_a_model_that_was_changed_is_probed_again(change, monkeypatch):
    faulty = failing(SCORERS["siblings"], ValueError("not so"))
    monkeypatch.setitem(SCORERS, "siblings", faulty)
    reward_model = tiny_reward_model()
    assert not probe(reward_model, "siblings").right
    faulty.broken = False
    assert not probe(reward_model, "siblings").right
    change(reward_model)
    assert probe(reward_model, "siblings").right


def test_an_unknown_scorer_is_refused():
    with pytest.raises(ValueError, match="choose one of"):
        choose_scorer(tiny_reward_model(), "fastest")
    with pytest.raises(ValueError, match="does not read text"):
        choose_reader(tiny_reward_model(), "expand")


@pytest.mark.parametrize("name", ["siblings", "hybrid", "expand"])
def test_scorers_that_read_candidates_are_refused_for_models_that_score_them_first(name):
    with pytest.raises(ValueError, match="next_token"):
        choose_scorer(tiny_next_token_model(), name)
