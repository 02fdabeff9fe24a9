"""Jackknife intervals of means are those of Student and Welch."""

import numpy as np
import pytest
import scipy.stats

from diffmech.statistics.jackknife import jackknife_interval


def means_without_one(values):
    return (values.sum(axis=0) - values) / (len(values) - 1)


def test_interval_of_a_mean_is_that_of_students_t():
    values = np.random.default_rng(0).gamma(2.0, size=(9, 3))
    interval = jackknife_interval(values.mean(axis=0), means_without_one(values), confidence=0.9)
    exact = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.9)
    np.testing.assert_allclose(interval.low, exact.low)
    np.testing.assert_allclose(interval.high, exact.high)


def test_interval_of_a_difference_of_groups_is_that_of_welch():
    source = np.random.default_rng(1)
    a, b = source.normal(2, 1, 8), source.normal(0, 3, 15)
    left_out = means_without_one(a), -means_without_one(b)
    interval = jackknife_interval(a.mean() - b.mean(), *left_out)
    exact = scipy.stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert interval.low == pytest.approx(exact.low)
    assert interval.high == pytest.approx(exact.high)
    assert interval.estimate == a.mean() - b.mean()


def test_a_constant_has_an_interval_of_no_width_and_a_single_unit_none():
    constant = jackknife_interval(2.0, np.full(5, 2.0))
    assert constant.low == constant.high == 2.0
    assert np.isnan(jackknife_interval(2.0, np.array([2.0])).low)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no group"):
        jackknife_interval(1.0)
    with pytest.raises(ValueError, match="group 1 of left_out holds 1 NaN"):
        jackknife_interval(1.0, np.ones(3), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="confidence is 95"):
        jackknife_interval(1.0, np.ones(3), confidence=95)
