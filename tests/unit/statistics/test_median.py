"""Interval and test of a median hold for every distribution, and say nothing where there are too few values."""

import numpy as np
import pytest
import scipy.stats

from diffmech.statistics.median import median_interval, sign_test, smallest_share

STUDIES = 4000
SHAPES = {
    "normal": (lambda rng, shape: rng.standard_normal(shape), 0.0),
    "skewed": (lambda rng, shape: rng.exponential(size=shape), np.log(2)),
    "heavy tails": (lambda rng, shape: rng.standard_t(1, shape), 0.0),
    "two humps": (lambda rng, shape: rng.choice([-5.0, 5.0], shape) + rng.standard_normal(shape), 0.0),
}


@pytest.mark.parametrize("n", [8, 16, 40])
@pytest.mark.parametrize("kind", SHAPES)
def test_intervals_hold_whatever_the_distribution(n, kind):
    draw, truth = SHAPES[kind]
    interval = median_interval(draw(np.random.default_rng(n), (n, STUDIES)))
    noise = 3 * np.sqrt(0.95 * 0.05 / STUDIES)
    share = np.mean((interval.low <= truth) & (truth <= interval.high))
    assert 0.92 - noise <= share <= 0.98 + noise
    assert (kind == "two humps") or 0.93 - noise <= share <= 0.97 + noise


def test_ends_lie_between_the_ordered_values_of_the_binomial_tables():
    interval = median_interval(np.arange(16.0))
    assert interval.estimate == 7.5
    assert 3 <= interval.low <= 4
    assert interval.low + interval.high == pytest.approx(15)
    assert median_interval(np.arange(6.0)).low >= 0


def test_five_values_have_no_interval_of_their_median():
    assert np.isnan([median_interval(np.arange(5.0)).low, median_interval(np.arange(5.0)).high]).all()


def test_the_sign_test_is_the_binomial_one_without_ties():
    values = np.array([3.0, 0.1, 2.0, -1.0, 0.0, 5.0, 0.2])
    assert sign_test(values) == pytest.approx(scipy.stats.binomtest(1, 6).pvalue)
    assert sign_test(np.zeros(4)) == 1
    assert sign_test(np.ones((5, 1))) == pytest.approx(2.0**-4)


def test_the_smallest_share_is_found_four_times_in_five():
    rng = np.random.default_rng(0)
    share = smallest_share(16, alpha=0.05, tests=10)
    signs = np.where(rng.random((16, 20000)) < share, 1.0, -1.0)
    assert np.mean(sign_test(signs) <= 0.005) == pytest.approx(0.8, abs=0.01)
    assert np.isnan(smallest_share(8, alpha=0.05, tests=100))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="confidence is 95"):
        median_interval(np.ones(8), confidence=95)
