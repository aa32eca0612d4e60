"""Pages that are made from tests name what the tests hold."""

from pathlib import Path

from tests.decoding.test_modes import MODES

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_decoding_modes_is_that_of_the_tests():
    rows = [line for line in (DOCS / "decoding-modes.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    modes = {cells[1].strip(): cells[2:-1] for cells in (row.split("|") for row in rows[2:])}
    assert set(modes) == set(MODES)
    for mode, cells in modes.items():
        unsupported = [cell.strip() for cell in cells].count("refused")
        assert unsupported == (mode in ("prompt lookup", "assisted decoding"))
