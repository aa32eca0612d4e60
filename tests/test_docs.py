"""Pages that are made from tests name what the tests hold."""

import runpy
from pathlib import Path

from tests.decoding.test_modes import MODES
from tests.decoding.test_reward_kinds import kinds

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_decoding_modes_is_that_of_the_tests():
    tables = (DOCS / "decoding-modes.md").read_text("utf-8").split("The same for the kinds")
    rows = [line for line in tables[0].splitlines() if line.startswith("| ")]
    modes = {cells[1].strip(): cells[2:-1] for cells in (row.split("|") for row in rows[2:])}
    assert set(modes) == set(MODES)
    for mode, cells in modes.items():
        unsupported = [cell.strip() for cell in cells].count("refused")
        assert unsupported == (mode in ("prompt lookup", "assisted decoding"))


def test_the_table_of_reward_kinds_is_that_of_the_tests():
    table = (DOCS / "decoding-modes.md").read_text("utf-8").split("The same for the kinds")[1]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")][2:]
    assert {cells[1].strip() for cells in rows} == set(kinds())
    assert all(cell.strip() == "✓" for cells in rows for cell in cells[2:-1])


def test_figures_of_tables_do_not_break():
    keep = runpy.run_path(str(DOCS / "hooks.py"))["on_page_content"]
    row = "<td>0.618 ± 0.02</td><td>+0.1 [+0.05, -1]</td><td>≤ 3.8</td><td>93% ± 2%</td>"
    assert keep(row) == row.replace(" ± ", "\xa0±\xa0").replace("≤ ", "≤\xa0").replace(", ", ",\xa0")
    for other in ("<p>0.618 ± 0.02</p>", "<td>± is the error, 2 of 3</td>"):
        assert keep(other) == other
