"""The comparison that other tests lean on can fail."""

import numpy as np
import pytest
import torch

from diffmech.testing import assert_same_up_to_rounding

EPS = float(np.finfo(np.float32).eps)


def test_rounding_is_counted_from_the_largest_value() -> None:
    expected = torch.tensor([5.7, 1e-6, -0.3])
    assert_same_up_to_rounding(expected + 20 * EPS * 5.7, expected, roundings=32)
    assert_same_up_to_rounding(float(expected[0]), np.float32(5.7), roundings=1)
    with pytest.raises(AssertionError, match=r"at \[\[1\]\]: 40 roundings of 5\.7, not 32"):
        assert_same_up_to_rounding(expected + torch.tensor([0, 40 * EPS * 5.7, 0]), expected, roundings=32)
    with pytest.raises(AssertionError):
        assert_same_up_to_rounding(
            1e-6 * expected + torch.tensor([0, 0, 40 * EPS * 5.7e-6]), 1e-6 * expected, roundings=32
        )


def test_differences_are_held_to_the_size_of_what_was_subtracted() -> None:
    assert_same_up_to_rounding(1e-6, 2e-6, scale=1, roundings=16)
    with pytest.raises(AssertionError):
        assert_same_up_to_rounding(1e-6, 2e-6, scale=1, roundings=4)


def test_half_precision_has_larger_roundings() -> None:
    expected = np.linspace(0, 1, 7)
    assert_same_up_to_rounding(expected + 5e-4, expected, roundings=1, dtype="float16")
    with pytest.raises(AssertionError):
        assert_same_up_to_rounding(expected + 5e-4, expected)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (np.nan, 1.0),
        (1.0, np.nan),
        (np.inf, 1.0),
        (-np.inf, np.inf),
        ([0.0, 1e-30], [0.0, 0.0]),
        ([1.0, 1.0], [1.0]),
        ([[1.0]], [1.0]),
    ],
)
def test_what_is_not_the_same_kind_of_value_differs(found: object, expected: object) -> None:
    with pytest.raises(AssertionError):
        assert_same_up_to_rounding(found, expected)


def test_what_is_not_finite_may_stand_in_the_same_places() -> None:
    assert_same_up_to_rounding([np.nan, -np.inf, 2.0], [np.nan, -np.inf, 2.0])
    assert_same_up_to_rounding([], [])
    assert_same_up_to_rounding(np.zeros(3), torch.zeros(3))
