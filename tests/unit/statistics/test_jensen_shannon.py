"""The divergence equals its closed forms and an independent implementation, column by column."""

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffmech.statistics.bootstrap import bootstrap_two_groups
from diffmech.statistics.jensen_shannon import (
    histogram_membership,
    jensen_shannon_divergence,
    jensen_shannon_of_probabilities,
)
from diffmech.statistics.permutation import label_permutation, permutation_p

small_samples = arrays(np.float64, st.integers(2, 12), elements=st.integers(-5, 5).map(float))


def test_identical_samples_do_not_diverge():
    values = np.random.default_rng(4).normal(size=(50, 3))
    assert np.array_equal(jensen_shannon_divergence(values, values), np.zeros(3))
    assert jensen_shannon_divergence(np.full(5, 0.1), np.full(9, 0.1)) == 0.0


def test_disjoint_samples_diverge_by_ln_2():
    source = np.random.default_rng(5)
    assert jensen_shannon_divergence(source.random(40), 5 + source.random(70)) == pytest.approx(np.log(2))


def test_divergence_of_known_shares():
    # P = (1/2, 1/2), Q = (1, 0): M = (3/4, 1/4)
    expected = (0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)) / 2 + np.log(1 / 0.75) / 2
    assert jensen_shannon_divergence([0.0, 1.0], [0.0, 0.0, 0.0], bins=2) == pytest.approx(expected)
    assert jensen_shannon_of_probabilities([0.5, 0.5], [1.0, 0.0]) == pytest.approx(expected)


def test_divergence_agrees_with_scipy_on_numpy_histograms():
    source = np.random.default_rng(6)
    a, b = source.normal(size=(200, 2, 3)), source.normal(0.5, 1.5, size=(150, 2, 3))
    ours = jensen_shannon_divergence(a, b, bins=20, limits=(-8.0, 8.0))
    for index in np.ndindex(2, 3):
        p, q = (np.histogram(x[:, *index], bins=20, range=(-8, 8))[0] for x in (a, b))
        assert ours[index] == pytest.approx(scipy.spatial.distance.jensenshannon(p, q) ** 2)


def test_divergence_of_two_large_samples_of_one_distribution_vanishes():
    source = np.random.default_rng(7)
    assert jensen_shannon_divergence(source.random(200_000), source.random(200_000)) < 2e-4


def test_bias_of_the_divergence_is_the_documented_one():
    source = np.random.default_rng(8)
    a, b = source.random((400, 2000)), source.random((300, 2000))
    mean = np.mean(jensen_shannon_divergence(a, b, bins=16, limits=(0.0, 1.0)))
    assert mean == pytest.approx(15 * (1 / 400 + 1 / 300) / 8, rel=0.03)


@given(small_samples, small_samples)
@settings(max_examples=100, deadline=None)
def test_divergence_is_symmetric_and_bounded(a, b):
    divergence = jensen_shannon_divergence(a, b, bins=8)
    assert divergence == pytest.approx(jensen_shannon_divergence(b, a, bins=8), abs=1e-12)
    assert 0 <= divergence <= np.log(2) + 1e-12


def test_divergence_has_a_null_and_an_interval_through_its_histograms():
    source = np.random.default_rng(9)
    a, b = source.normal(size=(80, 2)), source.normal(size=(90, 2))
    b[:, 1] *= 4
    one_hot_a, one_hot_b = histogram_membership(a, b, bins=12)
    observed, null = label_permutation(jensen_shannon_of_probabilities, one_hot_a, one_hot_b, permutations=400)
    assert np.allclose(observed, jensen_shannon_divergence(a, b, bins=12))
    p = permutation_p(observed, null)
    assert p[0] > 0.05
    assert p[1] == 1 / 401
    interval = bootstrap_two_groups(jensen_shannon_of_probabilities, one_hot_a, one_hot_b, draws=200)
    assert (interval.low < interval.high).all()


def test_mistakes_are_named():
    values = np.ones(4)
    with pytest.raises(ValueError, match="bins is 0"):
        jensen_shannon_divergence(values, values, bins=0)
    with pytest.raises(ValueError, match="outside the limits"):
        jensen_shannon_divergence(values, values, limits=(0.0, 0.5))
    with pytest.raises(ValueError, match="low < high"):
        jensen_shannon_divergence(values, values, limits=(1.0, 1.0))
    with pytest.raises(ValueError, match="a holds 1 NaN"):
        jensen_shannon_divergence([1.0, np.nan], values)
    with pytest.raises(ValueError, match="at least one sample"):
        jensen_shannon_divergence([], values)
    with pytest.raises(ValueError, match="axis 0 only"):
        jensen_shannon_divergence(np.ones((3, 2)), np.ones((3, 4)))
