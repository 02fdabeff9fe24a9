"""Permutation p-values are valid under the null, sharp where there is an effect, and honest about ties."""

from itertools import combinations, product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmech.statistics import bootstrap
from diffmech.statistics.permutation import label_permutation, max_statistic_p, permutation_p, sign_flip_permutation


def absolute_difference(a, b):
    return np.abs(a - b)


def test_label_permutation_p_is_uniform_under_the_null():
    source = np.random.default_rng(1)
    a, b = source.gamma(2.0, size=(25, 2000)), source.gamma(2.0, size=(40, 2000))
    p = permutation_p(*label_permutation(absolute_difference, a, b, permutations=999))
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01
    for alpha in (0.01, 0.05, 0.1):
        assert np.mean(p <= alpha) <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / 2000)


def test_sign_flip_p_is_uniform_under_the_null():
    differences = np.random.default_rng(2).laplace(size=(30, 2000))
    p = permutation_p(*sign_flip_permutation(lambda m: m, differences, permutations=999), alternative="two-sided")
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_a_true_difference_is_found_with_the_smallest_possible_p():
    source = np.random.default_rng(3)
    a, b = source.normal(0, 1, 60), source.normal(3, 1, 60)
    assert permutation_p(*label_permutation(absolute_difference, a, b, permutations=499)) == 1 / 500
    assert permutation_p(*sign_flip_permutation(np.abs, b, permutations=499)) == 1 / 500


def test_label_null_matches_full_enumeration():
    a, b = np.array([0.3, 1.9, 2.2]), np.array([0.1, 0.4, 0.8, 1.1])
    pooled = np.concatenate([a, b])
    every = []
    for chosen in combinations(range(7), 3):
        mask = np.isin(np.arange(7), chosen)
        every.append(pooled[mask].mean() - pooled[~mask].mean())
    observed, null = label_permutation(lambda x, y: x - y, a, b, permutations=20000)
    exact = np.mean(np.array(every) >= observed - 1e-9)
    assert observed == pytest.approx(a.mean() - b.mean())
    assert permutation_p(observed, null) == pytest.approx(exact, abs=0.012)
    assert set(np.round(null, 9)) == set(np.round(every, 9))


def test_sign_flip_null_matches_full_enumeration():
    differences = np.array([0.5, -0.2, 0.9, 1.4, 0.3])
    every = np.array([np.mean(differences * signs) for signs in product([-1, 1], repeat=5)])
    observed, null = sign_flip_permutation(lambda m: m, differences, permutations=20000)
    assert permutation_p(observed, null) == pytest.approx(np.mean(every >= observed - 1e-9), abs=0.012)


def test_statistic_over_heads_keeps_timesteps_apart():
    source = np.random.default_rng(4)
    a, b = source.normal(size=(30, 5, 8)), source.normal(size=(20, 5, 8))
    b[:, 3] += 2.0
    observed, null = label_permutation(lambda x, y: np.abs(x - y).mean(axis=-1), a, b, permutations=300)
    assert null.shape == (300, 5)
    assert np.allclose(observed, np.abs(a.mean(axis=0) - b.mean(axis=0)).mean(axis=-1))
    p = permutation_p(observed, null)
    assert p[3] == 1 / 301
    assert np.argmin(p) == 3


def test_null_does_not_depend_on_blocks_or_on_the_number_of_permutations(monkeypatch):
    source = np.random.default_rng(5)
    a, b = source.normal(size=(9, 4)), source.normal(size=(11, 4))
    _, whole = label_permutation(absolute_difference, a, b, permutations=200, seed=2)
    _, flips = sign_flip_permutation(np.abs, a, permutations=200, seed=2)
    monkeypatch.setattr(bootstrap, "BLOCK_ELEMENTS", 20 * 7)
    assert np.allclose(label_permutation(absolute_difference, a, b, permutations=90, seed=2)[1], whole[:90])
    assert np.allclose(sign_flip_permutation(np.abs, a, permutations=90, seed=2)[1], flips[:90])


def test_p_counts_the_observed_labelling_so_it_is_never_zero():
    null = np.arange(99.0)
    assert permutation_p(1000.0, null) == 0.01
    assert permutation_p(-1.0, null) == 1.0
    assert permutation_p(-1.0, null, alternative="less") == 0.01
    assert permutation_p(1000.0, null, alternative="two-sided") == 0.02
    assert permutation_p(49.0, null, alternative="two-sided") == 1.0


def test_ties_are_exceedances_even_when_rounding_hides_them():
    observed = 0.1 + 0.2
    assert permutation_p(observed, np.array([0.3, 0.3, 0.0])) == 3 / 4
    assert permutation_p(0.0, np.zeros(9)) == 1.0
    assert permutation_p(np.float32(0.1), np.full(4, 0.1)) == 1.0
    # a wild draw does not widen what counts as a tie
    assert permutation_p(1.0, np.array([1e12] + [0.5] * 8)) == 2 / 10


def test_labels_of_identical_values_cannot_be_told_apart():
    observed, null = label_permutation(absolute_difference, np.full(6, 0.1), np.full(6, 0.1), permutations=50)
    assert observed == 0.0
    assert permutation_p(observed, null) == 1.0


def test_complementary_labels_of_equal_groups_tie():
    values = np.random.default_rng(6).normal(1e3, 1e-3, size=4)
    _, null = label_permutation(absolute_difference, values[:2], values[2:], permutations=6000)
    observed = float(np.abs(values[:2].mean() - values[2:].mean()))
    every = np.array([abs(values[list(c)].sum() - values.sum() / 2) for c in combinations(range(4), 2)])
    exact = np.mean(every >= observed - 1e-9)
    assert permutation_p(observed, null) == pytest.approx(exact, abs=0.03)


def test_one_sample_per_group_can_never_be_significant():
    observed, null = label_permutation(absolute_difference, [1.0], [5.0], permutations=100)
    assert permutation_p(observed, null) == 1.0


def test_nan_statistics_have_no_p():
    p = permutation_p(np.array([1.0, np.nan, 1.0]), np.array([[0.0, 0.0, np.nan], [0.0, 0.0, 0.0]]))
    assert p[0] == 1 / 3
    assert np.isnan(p[1:]).all()


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30), st.floats(-10, 10), st.floats(0, 5))
@settings(max_examples=100, deadline=None)
def test_a_larger_observed_value_never_has_a_larger_p(null, observed, more):
    draws = np.array(null)
    assert permutation_p(observed + more, draws) <= permutation_p(observed, draws) + 1e-12
    assert 1 / (1 + len(draws)) <= permutation_p(observed, draws) <= 1


def test_max_statistic_controls_the_family_wise_error_under_dependence():
    source = np.random.default_rng(7)
    studies, tests = 2000, 20
    correlated = 0.7 * source.normal(size=(500, studies, 1)) + source.normal(size=(500, studies, tests))
    p = max_statistic_p(np.abs(correlated[0]), np.abs(correlated[1:]), axis=1)
    rate = np.mean((p <= 0.05).any(axis=1))
    assert 0.035 <= rate <= 0.065  # exact, not only below alpha; standard error 0.5 %
    unadjusted = permutation_p(np.abs(correlated[0]), np.abs(correlated[1:]))
    assert np.mean((unadjusted <= 0.05).any(axis=1)) > 0.3


def test_max_statistic_of_one_test_is_the_plain_permutation_p():
    null = np.random.default_rng(8).normal(size=(200, 1))
    assert max_statistic_p([1.2], null)[0] == permutation_p(1.2, null[:, 0])


def test_max_statistic_family_is_the_whole_array_unless_an_axis_is_given():
    null = np.array([[[0.0, 9.0]], [[0.0, 9.0]], [[0.0, 9.0]]])
    observed = np.array([[5.0, 10.0]])
    assert np.allclose(max_statistic_p(observed, null), [[1.0, 0.25]])
    assert np.allclose(max_statistic_p(observed, null, axis=0), [[0.25, 0.25]])
    assert np.allclose(max_statistic_p(observed, null, axis=(0, -1)), [[1.0, 0.25]])


def test_max_statistic_p_is_never_below_the_unadjusted_p():
    source = np.random.default_rng(9)
    observed, null = source.normal(size=(4, 5)) + 1, source.normal(size=(100, 4, 5))
    assert (max_statistic_p(observed, null) >= permutation_p(observed, null)).all()


def test_nan_statistics_leave_the_family():
    null = np.array([[0.0, np.nan], [0.0, 50.0]])
    p = max_statistic_p(np.array([5.0, 1.0]), null)
    assert p[0] == 1 / 3
    assert np.isnan(p[1])


@pytest.mark.unchecked
def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no draws"):
        permutation_p(1.0, np.array([]))
    with pytest.raises(ValueError, match="no draws"):
        max_statistic_p(np.ones(2), np.ones((0, 2)))
    with pytest.raises(ValueError, match="expected \\(permutation, \\*observed\\)"):
        permutation_p(np.ones(3), np.ones((10, 2)))
    with pytest.raises(ValueError, match="alternative is 'both'"):
        permutation_p(1.0, np.ones(3), alternative="both")
    with pytest.raises(ValueError, match="permutations is 0"):
        label_permutation(absolute_difference, np.ones(3), np.ones(3), permutations=0)
    with pytest.raises(ValueError, match="axis 0 only"):
        label_permutation(absolute_difference, np.ones((3, 2)), np.ones((3, 4)))
    with pytest.raises(ValueError, match="values_b holds 1 NaN"):
        label_permutation(absolute_difference, np.ones(3), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="must keep permutations along axis 0"):
        label_permutation(lambda a, b: (a - b).mean(), np.ones(3), np.ones(3))
