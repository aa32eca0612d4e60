"""A recorded pass gives what the pass gives, forgets what has moved, and gives up with a reason."""

import logging

import pytest
import torch

from rgtg_hf.rewards.parts import find_score_head
from rgtg_hf.scoring.recorded_pass import PassRecorder
from rgtg_hf.scoring.row_reader import RowReader
from tests.looks import Looks
from tests.tiny_models import FAMILIES, tiny_reward_model
from tests.versions import since

SIBLING_FAMILIES = [name for name, family in FAMILIES.items() if family[3] == "siblings"]


def test_the_output_of_a_recording_stays_in_its_place_and_that_of_a_first_pass_is_its_own():
    recorder = PassRecorder()
    first, second, third = (recorder.run(lambda x: x + 1, (torch.tensor([n]),), "key", memory=0) for n in (1, 2, 3))
    assert first.tolist() == [2]
    assert second is third
    assert third.tolist() == [4]


def test_what_has_moved_is_recorded_again():
    recorder, one = PassRecorder(), torch.zeros(1)
    outputs = [recorder.run(torch.neg, (one,), "key", memory) for memory in (0, 0, 0, 1, 1)]
    assert outputs[1] is outputs[2]
    assert outputs[4] is not outputs[2]


def test_other_shapes_and_keys_have_recordings_of_their_own():
    recorder = PassRecorder()
    found = [recorder.run(lambda x: x * 2, (torch.ones(size),), key, 0) for _ in range(3) for size, key in SHAPES]
    assert [len(one) for one in found] == [2, 3, 2] * 3
    assert len({id(one) for one in found[3:]}) == 3


SHAPES = ((2, "a"), (3, "a"), (2, "b"))


def test_a_pass_that_cannot_be_recorded_runs_as_it_is_and_says_why_once(monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr("rgtg_hf.scoring.recorded_pass._Recording", refuse)
    recorder = PassRecorder()
    with caplog.at_level(logging.WARNING, logger="rgtg_hf"):
        found = [recorder.run(torch.neg, (torch.tensor([n]),), "key", 0).item() for n in range(4)]
    assert found == [0, -1, -2, -3]
    assert [record.getMessage() for record in caplog.records] == [
        "The reward model runs without a CUDA graph, for it could not be recorded: operation not permitted when "
        "stream is capturing"
    ]


def one_step(family):
    """A step of siblings of one family that goes on from a held prompt, with the arguments of its pass."""
    model = tiny_reward_model(family)
    reader = RowReader(model, use_cuda_graph=True)
    ids, lengths = torch.tensor([[5, 6, 7, 8], [9, 10, -1, -1]]), torch.tensor([4, 2])
    reader.read(ids, lengths, torch.tensor([[3, 4], [5, 6]]))
    return model, reader, (128, None, None, 2, ids[:, -1:].clamp(min=0), lengths, torch.tensor([[7, 8], [9, 10]]))


@pytest.mark.parametrize("family", SIBLING_FAMILIES)
@torch.no_grad()
def test_no_pass_looks_at_the_device(family):
    # A look would end the recording of a graph.
    _, reader, arguments = one_step(family)
    with Looks() as looks:
        reader._pass(*arguments)
    assert looks.count == 0


@pytest.mark.parametrize("family", ["llama", pytest.param("gemma3", marks=pytest.mark.slow)])
@torch.no_grad()
@since("2.9", "a pass of transformers 5.5 does not compile", package="torch")
def test_the_pass_is_one_graph(family):
    # Nothing in it depends on values, so it compiles without a break.
    model, reader, arguments = one_step(family)
    expected = find_score_head(model)(reader._pass(*arguments))
    compiled = torch.compile(reader._pass, backend="eager", fullgraph=True)
    torch.testing.assert_close(find_score_head(model)(compiled(*arguments)), expected)
