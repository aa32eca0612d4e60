"""Training shows five figures for each log, and keeps all of them in a file."""

import io
import json
import re
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers import PrinterCallback, ProgressCallback, TrainerState

from rgtg_hf.cli.train.train_table import LOG_NAME, TrainingTable

_ANSI = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")
LOG = {"loss": 0.5, "accuracy": 0.75, "accuracy_at_100": 0.5, "margin": 0.25, "learning_rate": 1e-4, "grad_norm": 9.0}


@pytest.fixture(params=[False, True], ids=["log file", "terminal"])
def shown(request, tmp_path):
    """What a run of two logs and an evaluation shows, and its file."""
    written = io.StringIO()
    state = TrainerState(max_steps=20, is_world_process_zero=True)
    with TrainingTable(tmp_path, console=Console(file=written, force_terminal=request.param, width=80)) as table:
        table.on_train_begin(None, state, None)
        for step, logs in ((10, LOG), (10, {f"eval_{name}": value for name, value in LOG.items()}), (20, LOG)):
            state.global_step = step
            state.log_history.append(logs | {"step": step})
            table.on_step_end(None, state, None)
            table.on_prediction_step(None, state, None)
            table.on_evaluate(None, state, None, metrics={})
            table.on_log(None, state, None, logs=logs)
        table.on_log(None, state, None, logs={"train_runtime": 1.0})
    return written.getvalue(), (tmp_path / LOG_NAME).read_text()


def test_a_row_has_the_step_and_five_figures(shown):
    rows = [_ANSI.sub("", line).split() for line in shown[0].splitlines()]
    assert ["step", "loss", "accuracy", "at", "the", "end", "margin", "learning", "rate"] in [row[-9:] for row in rows]
    figures = ["0.5000", "0.750", "0.500", "0.250", "1.0e-04"]
    assert [row[:-5] for row in rows if row[-5:] == figures] == [["10"], ["10", "eval"], ["20"]]


def test_all_figures_are_in_the_file(shown):
    found = [json.loads(line) for line in shown[1].splitlines()]
    assert [row["step"] for row in found] == [10, 10, 20, 20]
    assert found[0] == LOG | {"step": 10}
    assert found[1]["eval_grad_norm"] == 9.0


def test_a_run_that_goes_on_keeps_what_was_logged_before(tmp_path):
    state = TrainerState(max_steps=20, log_history=[LOG | {"step": 10}], is_world_process_zero=True)
    (tmp_path / LOG_NAME).write_text("a line of steps that were lost\n")
    with TrainingTable(tmp_path, console=Console(file=io.StringIO())) as table:
        table.on_train_begin(None, state, None)
    assert [json.loads(line) for line in (tmp_path / LOG_NAME).read_text().splitlines()] == state.log_history


def test_other_processes_show_and_write_nothing(tmp_path):
    written, state = io.StringIO(), TrainerState(is_world_process_zero=False)
    with TrainingTable(tmp_path, console=Console(file=written)) as table:
        for event in (table.on_train_begin, table.on_step_end, table.on_prediction_step, table.on_evaluate):
            event(None, state, None)
        table.on_log(None, state, None, logs=LOG)
    assert written.getvalue() == ""
    assert not list(tmp_path.iterdir())


def test_it_stands_in_place_of_the_bars_of_transformers(tmp_path):
    removed, added = [], []
    trainer = SimpleNamespace(remove_callback=removed.append, add_callback=added.append)
    table = TrainingTable(tmp_path).instead_of_others(trainer)
    assert added == [table]
    assert set(removed) == {PrinterCallback, ProgressCallback}
