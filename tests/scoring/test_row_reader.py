"""Rows are found again by their ids, and read once."""

import pytest
import torch
from torch.testing import assert_close

from rgtg_hf.rewards.parts import find_backbone, find_score_head
from rgtg_hf.rewards.prefix_rewards import prefix_rewards
from rgtg_hf.scoring import row_reader
from rgtg_hf.scoring.row_reader import RowReader
from tests.tiny_models import tiny_reward_model

K = 3


def right_padded(rows):
    width = max(map(len, rows))
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows]), torch.tensor([len(row) for row in rows])


def assert_reads(reader, model, rows, tokens=None):
    """The rewards of the rows and of their candidates are those of whole sequences, at the cost given."""
    candidates = torch.arange(K * len(rows)).reshape(len(rows), K) + 3
    before = reader.tokens_computed
    found = find_score_head(model)(reader.read(*right_padded(rows), candidates))[..., 0]
    for row, (ids, own) in enumerate(zip(rows, candidates.tolist(), strict=True)):
        expected = [prefix_rewards(model, torch.tensor([[*ids, one]]))[0, -2:] for one in own]
        assert_close(found[row, 1:], torch.stack([one[1] for one in expected]), atol=1e-4, rtol=1e-4)
        assert_close(found[row, 0], expected[0][0], atol=1e-4, rtol=1e-4)
    if tokens is not None:
        assert reader.tokens_computed - before == tokens


@pytest.fixture(params=["llama", "mistral", "gpt2"])
def model(request):
    return tiny_reward_model(request.param)


@torch.no_grad()
def test_rows_of_any_length_grow_at_any_pace(model):
    reader = RowReader(model)
    first, second = list(range(3, 15)), [20, 21]
    assert_reads(reader, model, [first, second])
    assert_reads(reader, model, [[*first, 16], [*second, 22]], tokens=2 * (1 + K))
    assert_reads(reader, model, [[*first, 16, 17, 18, 19], [*second, 22, 23]], tokens=2 * (3 + K))
    assert_reads(reader, model, [[*first, 16, 30], [*second, 22]], tokens=2 * (1 + K))  # drafts that were dropped


@torch.no_grad()
def test_rows_move_come_and_go(model):
    reader = RowReader(model)
    rows = [[3 + row, *range(10, 14)] for row in range(3)]
    assert_reads(reader, model, rows)
    assert_reads(reader, model, [[*rows[2], 5], [*rows[0], 6], [*rows[2], 7]], tokens=3 * (1 + K))
    assert_reads(reader, model, [[*rows[2], 7, 8]], tokens=1 + K)
    assert_reads(reader, model, [[*rows[2], 7, 8, 9]] * 4, tokens=4 * (1 + K))


@torch.no_grad()
def test_long_prompts_are_read_in_parts_and_equal_ones_once(monkeypatch):
    monkeypatch.setattr(row_reader, "_TOKENS_PER_PASS", 16)
    for family in ("llama", "gemma3"):
        model = tiny_reward_model(family)
        reader = RowReader(model)
        prompt = [3 + i % 30 for i in range(50)]
        assert_reads(reader, model, [prompt, prompt], tokens=49 + 2 * (1 + K))
        assert_reads(reader, model, [[*prompt, *range(3, 33)], [*prompt, 7]])
        reader.reset()
        assert_reads(reader, model, [prompt[:40], prompt, prompt[:3]])


@torch.no_grad()
def test_ids_are_compared_in_parts_alike(model, monkeypatch):
    monkeypatch.setattr(row_reader, "_IDS_COMPARED_AT_ONCE", 1)
    test_rows_move_come_and_go(model)


@torch.no_grad()
def test_what_an_error_left_half_read_is_read_again(model):
    def fail(*_):
        raise MemoryError

    reader, rows = RowReader(model), [[5, 6, 7], [8, 9, 10]]
    assert_reads(reader, model, rows)
    handle = find_backbone(model).register_forward_hook(fail)
    with pytest.raises(MemoryError):
        reader.read(*right_padded([[5, 6, 11], [8, 9, 12]]))
    handle.remove()
    assert_reads(reader, model, rows)


def test_nothing_is_read_where_nothing_is_needed(model):
    reader = RowReader(model)
    assert reader.read(*right_padded([[5, 6]]), needed=torch.tensor([False])) is None
    assert reader.tokens_computed == 0


def test_recurrent_models_are_refused():
    with pytest.raises(ValueError, match="recurrent state"):
        RowReader(tiny_reward_model("jamba"))


@pytest.mark.parametrize("reads_some", [True, False], ids=["as on a CPU", "as on a GPU"])
@torch.no_grad()
def test_rows_that_are_not_needed_catch_up(model, reads_some):
    reader, head = RowReader(model), find_score_head(model)
    reader.reads_some = reads_some
    generator = torch.Generator().manual_seed(0)
    rows = [[3, 4, 5, 6], list(range(3, 30)), [7, 8]]
    for step in range(30):
        needed = torch.rand(3, generator=generator) < 0.4
        order = [0, 1, 2] if step % 4 else torch.randint(3, (3,), generator=generator).tolist()
        rows = [[*rows[row], *torch.randint(3, 40, (1 + step % 2,), generator=generator).tolist()] for row in order]
        hidden = reader.read(*right_padded(rows), torch.tensor([[5, 6]] * 3), needed=needed)
        assert (hidden is None) == (not needed.any())
        for row in needed.nonzero()[:, 0].tolist():
            expected = prefix_rewards(model, torch.tensor([[*rows[row], 6]]))[0, -2:]
            assert_close(head(hidden[row])[[0, 2], 0], expected, atol=1e-4, rtol=1e-4)
    reader.reset()
    reader.read(*right_padded(rows), torch.tensor([[5, 6]] * 3))
    before = reader.tokens_computed
    longer = right_padded([[*row, 9] for row in rows])
    reader.read(*longer, torch.tensor([[5, 6]] * 3), needed=torch.tensor([True, False, False]))
    assert reader.tokens_computed - before == (3 if reads_some else 9)
