"""Each check of a single argument names it and says what it must be."""

import math

import pytest

from rgtg_hf.arguments import check_count, check_number, check_switch, is_finite, shown


@pytest.mark.parametrize(
    ("check", "value", "error", "message"),
    [
        (check_number, "1", TypeError, "`x` is '1', but a number is required"),
        (check_number, True, TypeError, "`x` is True, but a number is required"),
        (check_number, math.nan, ValueError, "`x` is nan, but a finite number is required"),
        (check_number, 10**400, ValueError, "`x` is an integer of 1329 bits, but a finite number"),
        (check_count, 2.0, TypeError, "`x` is 2.0, but must be an integer of at least 1"),
        (check_count, True, TypeError, "`x` is True, but must be an integer"),
        (check_count, 0, ValueError, "`x` is 0, but must be at least 1"),
        (check_switch, "no", TypeError, "`x` is 'no', but True or False is required"),
        (check_switch, 1, TypeError, "`x` is 1, but True or False is required"),
    ],
)
def test_a_wrong_value_is_refused_by_name(check, value, error, message):
    with pytest.raises(error, match=message):
        check("x", value)


@pytest.mark.parametrize(
    ("check", "value"), [(check_number, -1.5), (check_number, 3), (check_count, 1), (check_switch, False)]
)
def test_a_right_value_passes(check, value):
    check("x", value)


def test_a_count_says_what_else_may_be_given():
    with pytest.raises(ValueError, match=r"must be at least 1, or None for all\.$"):
        check_count("x", -1, ", or None for all")


def test_a_number_is_finite_if_its_float_is():
    assert is_finite(-2)
    assert not is_finite(math.inf)
    assert not is_finite(10**400)


def test_a_value_is_shown_on_one_short_line():
    assert shown("text") == "'text'"
    assert shown([1, 2]) == "[1, 2]"
    long = shown(list(range(1000)))
    assert len(long) == 80
    assert long.endswith("...")
    assert "\n" not in shown(type("Tall", (), {"__repr__": lambda self: "a\n  b"})())
