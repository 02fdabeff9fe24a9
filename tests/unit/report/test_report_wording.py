"""Numbers are written as a reader expects them."""

import math

import pytest

from diffmech.report.wording import count, interval, listed, number, p_value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1.084, "1.08"),
        (-0.099999, "−0.100"),
        (128.3, "128"),
        (1412345, "1.41e6"),
        (0.0000123, "1.23e−5"),
        (12345.6, "12,300"),
        (math.nan, "not available"),
        (None, "not available"),
    ],
)
def test_numbers_keep_three_digits(value, text):
    assert number(value) == text


def test_intervals_name_the_unit_once():
    assert interval(1.084, 1.076, 1.092) == "1.08 (1.08 to 1.09)"
    assert interval(0.166, 0.1, 0.2, "nats") == "0.166 nats (0.100 to 0.200)"
    assert interval(25.6, 20, 31, "%") == "25.6 % (20.0 to 31.0)"


def test_a_narrow_interval_is_written_with_the_digits_that_tell_its_ends_apart():
    assert interval(1.00021, 1.00012, 1.0003) == "1.0002 (1.0001 to 1.0003)"
    assert interval(1.00021, 0.99996, 1.0004) == "1.0002 (0.99996 to 1.0004)"
    assert interval(2.5, 2.5, 2.5) == "2.50 (2.50 to 2.50)"


def test_small_p_values_are_bounds():
    assert p_value(0.0002) == "p\xa0<\xa00.001"
    assert p_value(0.0123) == "p\xa0=\xa00.012"
    assert p_value(0.5) == "p\xa0=\xa00.50"
    assert p_value(math.nan) == "no p-value"


def test_amounts_and_lists_read_as_english():
    assert [count(n, "head") for n in (0, 1, 3)] == ["no heads", "1 head", "3 heads"]
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
