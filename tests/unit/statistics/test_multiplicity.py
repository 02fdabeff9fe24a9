"""Adjusted p-values follow their definitions, keep order and shape, and control what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from diffmech.statistics.multiplicity import benjamini_hochberg, holm, holm_sidak

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=30).map(np.array)


def test_holm_of_a_hand_computed_example():
    # sorted 0.005 0.01 0.03 0.04 times 4 3 2 1 = 0.02 0.03 0.06 0.04, made monotone
    assert np.allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


@given(p_values)
@settings(max_examples=100, deadline=None)
def test_holm_is_the_largest_scaled_p_at_or_below(p):
    # straight from the definition: adjusted p_i = max over p_j <= p_i of p_j * (number of p_k >= p_j), at most 1
    expected = [min(1.0, max(q * np.sum(p >= q) for q in p if q <= value)) for value in p]
    assert np.allclose(holm(p), expected)


@given(p_values, st.floats(0.01, 0.5))
@settings(max_examples=100, deadline=None)
def test_holm_rejects_what_the_step_down_procedure_rejects(p, alpha):
    order, rejected = np.argsort(p, kind="stable"), np.zeros(len(p), dtype=bool)
    for step, index in enumerate(order):
        if p[index] * (len(p) - step) > alpha:
            break
        rejected[index] = True
    assert np.array_equal(holm(p) <= alpha, rejected)


@given(p=p_values)
@settings(max_examples=100, deadline=None)
def test_adjusting_keeps_order_and_never_lowers_a_p(p):
    adjusted = holm(p)
    assert (adjusted >= p - 1e-15).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


@given(p=p_values, index=st.integers(0, 29), factor=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_a_smaller_p_never_raises_any_adjusted_p(p, index, factor):
    smaller = p.copy()
    smaller[index % len(p)] *= factor
    assert (holm(smaller) <= holm(p) + 1e-12).all()


def test_tests_that_were_not_made_are_not_counted():
    p = np.array([[0.01, np.nan, 0.04], [0.03, 0.005, np.nan]])
    adjusted = holm(p)
    assert adjusted.shape == p.shape
    assert np.array_equal(np.isnan(adjusted), np.isnan(p))
    assert np.array_equal(adjusted[~np.isnan(p)], holm(p[~np.isnan(p)]))


def test_trivial_families():
    assert holm([0.3]) == [0.3]
    assert holm(0.3) == 0.3
    assert holm([]).shape == (0,)
    assert np.isnan(holm([np.nan, np.nan])).all()
    assert np.array_equal(holm([1.0, 1.0]), [1.0, 1.0])


@pytest.mark.parametrize("bad", [-0.01, 1.01])
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(ValueError, match=r"expected \[0, 1\]"):
        holm([0.5, bad])


def test_holm_controls_the_family_wise_error():
    studies = np.random.default_rng(0).random((4000, 10))
    rate = np.mean([(holm(p) <= 0.05).any() for p in studies])
    assert rate == pytest.approx(1 - 0.995**10, abs=0.012)  # under independence: any p <= 0.05 / 10


def test_holm_sidak_is_its_definition_step_by_step() -> None:
    p = [0.01, 0.04, 0.03, math.nan, 0.5]
    first, second, third = 1 - 0.99**4, 1 - 0.97**3, 1 - 0.96**2
    assert holm_sidak(p) == pytest.approx([first, max(second, third), second, math.nan, 0.5], nan_ok=True)
    assert (holm_sidak([0.01, 0.04, 0.03]) <= holm([0.01, 0.04, 0.03])).all()
    assert holm_sidak([0.0, 1.0]).tolist() == [0, 1]
    with pytest.raises(ValueError, match="expected"):
        holm_sidak([1.5])


def test_holm_sidak_keeps_the_family_wise_error_of_independent_tests() -> None:
    p = np.random.default_rng(0).random((4000, 5))
    errors = np.mean([holm_sidak(row).min() <= 0.05 for row in p])
    assert errors == pytest.approx(0.05, abs=0.012)


@given(p_values)
@settings(max_examples=100, deadline=None)
def test_benjamini_and_hochberg_agree_with_scipy(p):
    assert np.allclose(benjamini_hochberg(p), false_discovery_control(p))


def test_benjamini_and_hochberg_control_the_share_of_false_finds():
    source = np.random.default_rng(0)
    shares = []
    for _ in range(400):
        p = source.uniform(size=50)
        p[:10] = source.uniform(0, 0.005, 10)  # what there is to find
        found = benjamini_hochberg(p) <= 0.05
        shares.append(found[10:].sum() / max(found.sum(), 1))
    assert np.mean(shares) <= 0.05


def test_what_was_not_tested_is_no_part_of_the_family_of_false_finds():
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    assert np.allclose(benjamini_hochberg(p), [[0.03, np.nan], [0.04, 0.04]], equal_nan=True)
    with pytest.raises(ValueError, match="expected \\[0, 1\\] or NaN"):
        benjamini_hochberg([1.5])
