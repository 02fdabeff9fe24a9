"""What seeds of trainings add to the interval of a difference."""

import numpy as np
import pytest
from scipy import stats

from diffmech.anomaly.over_rounds import over_rounds


def means_of(values):
    """Return the mean difference of patients `(patient, difference)` as a function of weights."""
    return lambda weights: (weights @ values) / weights.sum(1, keepdims=True)


def test_ends_are_those_of_student_over_rounds_where_these_are_wider():
    source = np.random.default_rng(0)
    values, rounds = source.normal(size=(20, 2)), np.repeat(np.arange(5), 4)
    apart = values.reshape(5, 4, 2).mean(1)
    error = apart.std(axis=0, ddof=1) * np.sqrt(1 / 5)
    reach = stats.t.ppf(0.95, 4) * error
    inner = apart.mean(0)
    low, high = over_rounds(means_of(values), rounds, 0.9, inner, inner)
    assert low == pytest.approx(inner - reach)
    assert high == pytest.approx(inner + reach)
    wide = over_rounds(means_of(values), rounds, 0.9, inner - 9, inner + 9)
    assert np.allclose(wide, [inner - 9, inner + 9])


def test_one_round_says_nothing_of_seeds_and_a_round_without_a_lesion_is_left_out():
    values, low, high = np.arange(12.0)[:, None], np.array([-1.0]), np.array([1.0])
    assert over_rounds(means_of(values), np.zeros(12, dtype=int), 0.95, low, high) == (low, high)
    rounds = np.repeat(np.arange(4), 3)

    def lacking(weights, missing):
        return np.where(weights[:, [0, 3]][:, :missing].sum(1, keepdims=True) > 0, np.nan, means_of(values)(weights))

    some = over_rounds(lambda w: lacking(w, 1), rounds, 0.95, low, high)
    apart = np.array([4.0, 7.0, 10.0])
    reach = stats.t.ppf(0.975, 2) * apart.std(ddof=1) * np.sqrt(1 / 3)
    assert np.ravel(some) == pytest.approx([min(-1, 7 - reach), max(1, 7 + reach)])
    assert np.isnan(over_rounds(lambda w: lacking(w, 2), rounds, 0.95, low, high)).all()


def test_a_seed_that_shifts_all_patients_of_a_round_is_taken_for_nothing():
    """Patients alone would call half of such differences found."""
    source, found = np.random.default_rng(1), np.zeros(2)
    rounds = np.repeat(np.arange(5), 8)
    for _ in range(400):
        values = source.normal(size=5)[rounds, None] + 0.5 * source.normal(size=(40, 1))
        mean, error = values.mean(0), values.std(axis=0, ddof=1) / np.sqrt(40)
        ends = mean - 2 * error, mean + 2 * error
        for place, (low, high) in enumerate((ends, over_rounds(means_of(values), rounds, 0.95, *ends))):
            found[place] += low.item() > 0 or high.item() < 0
    assert found[0] > 160
    assert found[1] < 0.08 * 400  # of 5 % expected, 400 times
