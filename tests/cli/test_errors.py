import pytest

from rgtg_hf.cli.errors import UserError, blame_input


def test_errors_of_a_library_become_one_line():
    with pytest.raises(UserError, match=r"^reading failed: first second$"), blame_input("reading failed"):
        raise ValueError("first\n  second\n")


def test_the_cause_is_told_where_there_is_one():
    with pytest.raises(UserError, match=r"^reading failed: no such row$"), blame_input("reading failed"):
        raise ValueError("something went wrong") from ValueError("no such row")


def test_what_is_added_to_a_cause_is_told():
    with pytest.raises(UserError, match=r"^reading failed: Row 2 has no reward$"), blame_input("reading failed"):
        raise ValueError("Row 2 has no reward") from ValueError("no reward")


def test_other_errors_pass():
    with pytest.raises(RuntimeError), blame_input("loading failed"):
        raise RuntimeError
