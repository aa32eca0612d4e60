from dataclasses import dataclass

import pytest

from rgtg_hf.cli.errors import UserError
from rgtg_hf.cli.partial import PartialOutput, has_finished_rows, work_through
from rgtg_hf.cli.processes import Processes

HEADER = {"settings": {"seed": 0}}


@dataclass
class Row:
    index: int


BATCHES = [[Row(2), Row(0)], [Row(1)], [Row(3)]]


def make_rows(number, batch):
    return [{"index": row.index, "tokens": 1, "batch": number} for row in batch]


def test_rows_come_in_order_and_the_partial_file_goes(tmp_path):
    with PartialOutput(tmp_path / "out.jsonl", HEADER, Processes()) as output:
        work_through(output, BATCHES, make_rows)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [line[:11] for line in lines] == [f'{{"index": {i}' for i in range(4)]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_an_interrupted_run_says_how_to_continue_and_repeats_nothing(tmp_path):
    made = []

    def interrupted(number, batch):
        if number == 1:
            raise KeyboardInterrupt
        return make_rows(number, batch)

    output = PartialOutput(tmp_path / "out.jsonl", HEADER, Processes())
    with pytest.raises(KeyboardInterrupt, match=r"out.jsonl.partial; the same command continues"), output:
        work_through(output, BATCHES, interrupted)
    assert not (tmp_path / "out.jsonl").exists()
    with PartialOutput(tmp_path / "out.jsonl", HEADER, Processes()) as output:
        work_through(output, BATCHES, lambda number, batch: made.append(number) or make_rows(number, batch))
    assert made == [1, 2]
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4


def test_an_error_keeps_the_partial_file_and_passes(tmp_path):
    with pytest.raises(ZeroDivisionError), PartialOutput(tmp_path / "out.jsonl", HEADER, Processes()) as output:
        work_through(output, BATCHES, lambda number, batch: make_rows(number, batch)[: 1 // (1 - number)])
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl.partial"]


def test_only_process_0_writes_the_output(tmp_path):
    with PartialOutput(tmp_path / "out.jsonl", HEADER, Processes(1, 2)) as output:
        work_through(output, BATCHES, make_rows)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl.partial-1"]
    with PartialOutput(tmp_path / "out.jsonl", HEADER, Processes(0, 2)) as output:
        work_through(output, BATCHES, make_rows)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 4


def test_other_settings_are_refused(tmp_path):
    output = PartialOutput(tmp_path / "out.jsonl", HEADER, Processes())
    output.add([{"index": 0}])
    output.close()
    with pytest.raises(UserError, match="started with other prompts or settings"):
        PartialOutput(tmp_path / "out.jsonl", {"settings": {"seed": 1}}, Processes())


def test_a_run_that_ended_before_its_first_row_leaves_nothing_to_go_on_with(tmp_path):
    PartialOutput(tmp_path / "out.jsonl", HEADER, Processes()).close()
    assert not has_finished_rows(tmp_path / "out.jsonl")
    output = PartialOutput(tmp_path / "out.jsonl", {"settings": {"seed": 1}}, Processes())
    output.add([{"index": 0}])
    output.close()
    assert has_finished_rows(tmp_path / "out.jsonl")
