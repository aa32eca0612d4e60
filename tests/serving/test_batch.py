"""The guided rows of a running batch: requests join, leave and move in any order, and none notices the others."""

import random

import pytest
import torch

from rgtg_hf import RewardGuidedLogitsProcessor
from rgtg_hf.config import resolve_guidance
from rgtg_hf.serving.batch import GuidedBatch
from rgtg_hf.serving.rows import cache_bytes_per_token, make_row_scorer
from tests.tiny_models import VOCAB_SIZE, tiny_next_token_model, tiny_reward_model, tiny_steering_head

KINDS = {"siblings": tiny_reward_model, "next_token": tiny_next_token_model}
LENGTH = 9


SETTINGS = [
    {"beta": 2.0, "top_k": 5},
    {"beta": -1.5, "top_k": 3, "min_entropy": 0.8},
    {"beta": 0.0, "top_k": 4},
    {"beta": 1.0, "top_k": 1},
    {"beta": 3.0, "top_k": 8, "top_p": 0.8, "max_increment": 0.5},
    {"beta": 3.0, "min_p": 0.1, "max_step_kl": 0.1},
]


def resolved(settings):
    return resolve_guidance(settings).config


class Engine:
    """A toy engine: a batch of rows without gaps, each with a prompt, a response, and perhaps guidance."""

    def __init__(self, policy, batch):
        self.policy, self.batch, self.rows = policy, batch, []

    def add(self, prompt, settings):
        self.rows.append((prompt, [], settings))
        if settings:
            self.batch.join(len(self.rows) - 1, resolved(settings))

    def remove(self, row):
        """The last row takes the place of the one that goes."""
        self.batch.leave(row)
        last = len(self.rows) - 1
        if row != last:
            self.batch.move(last, row)
            self.rows[row] = self.rows[last]
        return self.rows.pop()

    def swap(self, one, other):
        self.batch.swap(one, other)
        self.rows[one], self.rows[other] = self.rows[other], self.rows[one]

    def step(self):
        prefixes = [prompt + response for prompt, response, _ in self.rows]
        logits = torch.stack([self.policy(torch.tensor([ids])).logits[0, -1] for ids in prefixes]).detach()
        guided = [row for row in range(len(self.rows)) if row in self.batch]
        if guided:
            logits[guided] = self.batch.guide(guided, [prefixes[row] for row in guided], logits[guided])
        for (_, response, _), id_ in zip(self.rows, logits.argmax(-1).tolist(), strict=True):
            response.append(id_)


def alone(policy, reward_model, prompt, settings):
    """The tokens that `generate()` of transformers gives for this prompt by itself."""
    processors = [RewardGuidedLogitsProcessor(reward_model, **settings)] if settings else []
    ids = policy.generate(
        torch.tensor([prompt]), logits_processor=processors, max_new_tokens=LENGTH, do_sample=False, eos_token_id=None
    )
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_every_request_gets_what_it_gets_alone(policy, kind, seed):
    chance = random.Random(seed)
    reward_model = KINDS[kind]()
    batch = GuidedBatch(make_row_scorer(reward_model))
    engine = Engine(policy, batch)
    system = [chance.randrange(3, VOCAB_SIZE) for _ in range(5)]  # prompts that begin alike
    waiting = []
    for _ in range(12):
        tail = [chance.randrange(3, VOCAB_SIZE) for _ in range(chance.randrange(1, 25))]
        settings = chance.choice([None, *SETTINGS])
        waiting.append(((system + tail) if chance.random() < 0.5 else tail, settings))
    finished = 0
    while waiting or engine.rows:
        while waiting and (not engine.rows or chance.random() < 0.4):
            engine.add(*waiting.pop())
        if len(engine.rows) > 1 and chance.random() < 0.3:
            engine.swap(*chance.sample(range(len(engine.rows)), 2))
        if engine.rows and chance.random() < 0.1:
            engine.remove(chance.randrange(len(engine.rows)))  # cancelled
        if engine.rows:
            engine.step()
        while done := [row for row, (_, response, _) in enumerate(engine.rows) if len(response) == LENGTH]:
            prompt, response, settings = engine.rows[done[0]]
            assert response == alone(policy, reward_model, prompt, settings)
            engine.remove(done[0])
            finished += 1
    assert finished >= 6
    assert not batch
    assert batch.scorer.row_count == 0
    assert not any(getattr(layer, "is_initialized", False) for layer in batch.scorer.reader.buffer.layers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_preempted_request_goes_on_as_if_nothing_had_happened(policy, kind):
    reward_model = KINDS[kind]()
    batch = GuidedBatch(make_row_scorer(reward_model))
    engine = Engine(policy, batch)
    prompt, settings = [5, 9, 12, 7], {"beta": 2.0, "top_k": 5}
    engine.add(prompt, settings)
    for _ in range(4):
        engine.step()
    batch.leave(0)
    batch.join(0, resolved(settings))
    for _ in range(LENGTH - 4):
        engine.step()
    assert engine.rows[0][1] == alone(policy, reward_model, prompt, settings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_reads_each_token_once(kind):
    """Prompts in one pass; then one token, and k siblings, per row and step; nothing again as others come and go."""
    scorer = make_row_scorer(KINDS[kind]())
    batch = GuidedBatch(scorer)
    prefixes = [list(range(3, 23)), list(range(4, 24))]
    for row in (0, 1):
        batch.join(row, resolved({"beta": 1.0, "top_k": 4}))
    scores = torch.randn(2, VOCAB_SIZE)
    batch.guide([0, 1], prefixes, scores)
    siblings = 4 if kind == "siblings" else 0
    assert scorer.reader.tokens_computed == 2 * (20 + siblings)
    best = batch.guide([0, 1], prefixes, scores).argmax(-1).tolist()
    batch.leave(0)
    before = scorer.reader.tokens_computed
    batch.guide([1], [[*prefixes[1], best[1]]], scores[1:])
    assert scorer.reader.tokens_computed - before == 1 + siblings


def test_a_candidate_that_is_ruled_out_stays_so(reward_model):
    batch = GuidedBatch(make_row_scorer(reward_model))
    batch.join("a", resolved({"beta": 5.0, "top_k": 8}))
    scores = torch.randn(1, VOCAB_SIZE)
    scores[:, 4:] = float("-inf")  # as a grammar does
    guided = batch.guide(["a"], [[5, 6, 7]], scores)
    assert torch.isfinite(guided[:, :4]).all()
    assert (guided[:, 4:] == float("-inf")).all()


def test_a_request_whose_rewards_are_not_finite_follows_the_policy_and_the_log_says_so(caplog):
    reward_model = tiny_reward_model()
    batch = GuidedBatch(make_row_scorer(reward_model))
    torch.nn.init.constant_(reward_model.score.weight, float("nan"))
    batch.join(0, resolved({"beta": 5.0, "top_k": 8}))
    scores = torch.randn(1, VOCAB_SIZE)
    guided = batch.guide([0], [[5, 6, 7]], scores)
    assert guided.argmax() == scores.argmax()
    batch.guide([0], [[5, 6, 7, int(guided.argmax())]], scores)
    assert [record.message.split(". ")[0] for record in caplog.records] == [
        "The reward model gave 1 of the requests a reward that is not finite"
    ]
    assert [batch.take_not_finite() for _ in range(2)] == [2, 0]


def test_a_steering_head_is_no_reward_model_of_rows(policy):
    with pytest.raises(ValueError, match="no backbone of its own"):
        make_row_scorer(tiny_steering_head(policy))


def test_models_whose_candidates_cannot_be_siblings_are_refused():
    with pytest.raises(ValueError, match="need the scorer 'siblings'"):
        make_row_scorer(tiny_reward_model("bloom"))


def test_cache_bytes_are_those_of_keys_and_values(reward_model):
    layers, heads, size, parts, bytes_ = 2, 2, 8, 2, 4
    per_token = layers * heads * size * parts * bytes_
    assert cache_bytes_per_token(reward_model) == per_token
    batch = GuidedBatch(make_row_scorer(reward_model))
    assert batch.scorer.cache_bytes == 0
    batch.join(0, resolved({"beta": 1.0}))
    batch.guide([0], [[5, 6, 7]], torch.randn(1, VOCAB_SIZE))
    assert batch.scorer.cache_bytes % per_token == 0
    assert batch.scorer.cache_bytes >= 3 * per_token
