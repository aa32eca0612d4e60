"""Scorers that keep a cache are right wherever a generation goes: rows grow, move, end, lose tokens or start over."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.scoring.choose import SCORERS, choose_reader, choose_scorer
from rgtg_hf.scoring.scorer import PrefixBatch
from tests.reliability.strategies import (
    cases,
    depths,
    families,
    next_token_model_of,
    prompt_batches,
    reward_model_of,
    seeds,
    tokens,
)
from tests.tiny_models import FAMILIES

SIBLINGS = [name for name, family in FAMILIES.items() if family[3] == "siblings"]
MOVES = (
    *(
        "grow",
        "choose",
        "choose",
        "choose beams",
        "choose beams",
        "grow by more",
        "skip",
        "drop",
        "drop",
        "reorder",
        "reorder",
    ),
    *("fewer rows", "new prompts", "reset"),
)


@dataclass
class Move:
    """What happens to the rows before they are scored.

    Attributes:
        kind: One of `MOVES`.
        numbers: What to choose tokens, rows and lengths by.
        prompts: The new prompts, where there are to be some.
        candidates: Per row.
        unwanted: Rows that are left out of this step (but never all of them), and one candidate too.
    """

    kind: str
    numbers: list[int]
    prompts: list[list[int]]
    candidates: int
    unwanted: list[int]


@st.composite
def moves(draw):
    kind = draw(st.sampled_from(MOVES))
    numbers = draw(st.lists(tokens, min_size=6, max_size=6))
    prompts = draw(prompt_batches(first=0)) if kind == "new prompts" else []
    return Move(kind, numbers, prompts, draw(st.integers(1, 5)), draw(st.lists(st.integers(0, 2), max_size=2)))


@dataclass
class Walk:
    """A scorer, prompts, and what becomes of them."""

    scorer: str
    use_cuda_graph: bool
    family: str
    seed: int
    depth: int
    filler: int
    prompts: list[list[int]]
    moves: list[Move]


@st.composite
def walks(draw):
    scorer = draw(st.sampled_from(["siblings", "siblings", "hybrid", "hybrid", "expand", "auto", "next_token"]))
    some = {"siblings": st.sampled_from(SIBLINGS), "next_token": st.just("llama"), "hybrid": st.just("jamba")}
    family = draw(some.get(scorer, families))
    return Walk(
        scorer,
        scorer == "siblings" and draw(st.booleans()),
        family,
        draw(seeds),
        draw(depths),
        draw(tokens),
        draw(prompt_batches(first=0)),
        draw(st.lists(moves(), min_size=4, max_size=10)),
    )


def after(move, rows, candidates):
    """The rows after a move, all of the same number of response tokens. `candidates` are those that were scored."""
    numbers, done = move.numbers, len(rows[0][1])
    if move.kind.startswith("choose") and candidates:
        sources = [numbers[row % 6] % len(rows) if "beams" in move.kind else row for row in range(len(rows))]
        tokens = [candidates[source][numbers[-1 - row % 6] % len(candidates[0])] for row, source in enumerate(sources)]
        return [(rows[s][0], [*rows[s][1], token]) for s, token in zip(sources, tokens, strict=True)]
    if move.kind == "grow by more":
        return [(prompt, [*response, *(n + row for n in numbers[:3])]) for row, (prompt, response) in enumerate(rows)]
    if move.kind == "drop" and done:
        return [(prompt, response[: numbers[0] % done]) for prompt, response in rows]
    if move.kind == "reorder":
        rows = [rows[number % len(rows)] for number in numbers[: len(rows)]]
    if move.kind == "fewer rows":
        rows = rows[: 1 + numbers[0] % len(rows)]
    if move.kind == "new prompts":
        return [(prompt, []) for prompt in move.prompts]
    if move.kind == "reset":
        return rows
    return [(prompt, [*response, (numbers[0] + 3 * row) % 40]) for row, (prompt, response) in enumerate(rows)]


def as_batch(rows, filler):
    width = max(len(prompt) for prompt, _ in rows)
    gaps = [width - len(prompt) for prompt, _ in rows]
    ids = [[filler] * gap + prompt + response for gap, (prompt, response) in zip(gaps, rows, strict=True)]
    mask = [[0] * gap + [1] * (len(row) - gap) for gap, row in zip(gaps, ids, strict=True)]
    return PrefixBatch(torch.tensor(ids) % 40, torch.tensor(mask), width)


def wanted_of(move, rows):
    """Whole rows are left out, and now and then a single candidate."""
    wanted = torch.ones(rows, move.candidates, dtype=torch.bool)
    for row in move.unwanted:
        if row < rows - 1:
            wanted[row] = False
        elif move.candidates > 1:
            wanted[-1, row % move.candidates] = False
    return wanted


@torch.no_grad()
def whole(model, sequences):
    """Rewards of whole sequences, one at a time."""
    return torch.stack([prefix_rewards(model, torch.tensor([ids]), use_cache=False)[0, -1] for ids in sequences])


def walk_is_right(walk):
    if walk.scorer == "next_token":
        model = next_token_model_of(walk.family, walk.seed)
    else:
        model = reward_model_of(walk.family, walk.seed, walk.depth)
    if walk.use_cuda_graph:
        scorer = SCORERS[walk.scorer](model, use_cuda_graph=True)
    else:
        scorer = choose_scorer(model) if walk.scorer == "auto" else SCORERS[walk.scorer](model)
    rows, candidates = [(prompt, []) for prompt in walk.prompts], None
    for move in walk.moves:
        rows = after(move, rows, None if candidates is None else candidates.tolist())
        if move.kind == "reset":
            scorer.reset()
        if move.kind == "skip":
            candidates = None
            continue
        prefixes, wanted = as_batch(rows, walk.filler), wanted_of(move, len(rows))
        k = move.candidates
        candidates = torch.tensor(
            [[(move.numbers[n % 6] + 7 * n + row) % 40 for n in range(k)] for row in range(len(rows))]
        )
        found = scorer.score(prefixes, candidates, wanted)
        assert not found[~wanted].any()
        for row, chosen in enumerate(candidates):
            ids = prefixes.input_ids[row][prefixes.attention_mask[row].bool()].tolist()
            *rewards, last = whole(model, [[*ids, int(token)] for token in chosen] + [ids])
            expected = torch.stack(rewards) - last
            assert_close(found[row][wanted[row]], expected[wanted[row]], atol=2e-4, rtol=2e-4)


@cases(60)
@given(walk=walks())
def test_scorers_are_right_on_random_walks(walk):
    walk_is_right(walk)


@pytest.mark.slow
@cases(700)
@given(walk=walks())
def test_scorers_are_right_on_many_random_walks(walk):
    walk_is_right(walk)


@dataclass
class Texts:
    """Sequences of ids as retokenized text gives them: in each row a prefix and its continuations, step after step."""

    family: str
    seed: int
    steps: list[list[tuple[list[int], list[list[int]]]]]


@st.composite
def texts(draw):
    rows, sequences = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    stems = [draw(st.lists(tokens, max_size=12)) for _ in range(rows)]
    steps = []
    for _ in range(draw(st.integers(1, 6))):
        step = []
        for row in range(rows):
            kept = draw(st.integers(0, len(stems[row])))
            stems[row] = stems[row][: max(kept, len(stems[row]) - 3)] + draw(st.lists(tokens, max_size=3))
            wanted = sequences if draw(st.integers(0, 3)) else 0
            step.append((stems[row], [draw(st.lists(tokens, min_size=1, max_size=4)) for _ in range(wanted)]))
        if draw(st.booleans()):
            stems = [stems[draw(st.integers(0, rows - 1))] for _ in range(rows)]
        steps.append(step)
    return Texts(draw(st.sampled_from(["llama", "gpt2", "gemma2", "bloom", "jamba"])), draw(seeds), steps)


def readings_are_right(texts):
    model = reward_model_of(texts.family, texts.seed, 2)
    reader = choose_reader(model)
    for step in texts.steps:
        prefixes, continuations = (list(part) for part in zip(*step, strict=True))
        found = reader.read(prefixes, continuations)
        for own, (prefix, rest) in zip(found, step, strict=True):
            expected = whole(model, [prefix + one for one in rest]) if rest else torch.empty(0)
            assert_close(torch.tensor(own), expected, atol=2e-4, rtol=2e-4)


@cases(15)
@given(texts=texts())
def test_retokenized_texts_are_read_right(texts):
    readings_are_right(texts)


@pytest.mark.slow
@cases(300)
@given(texts=texts())
def test_many_retokenized_texts_are_read_right(texts):
    readings_are_right(texts)
