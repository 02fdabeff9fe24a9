"""k-means of many tables at once: as good as an independent implementation, table by table."""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from diffmech.mechanisms.k_means import k_means


def cost(values, labels):
    return sum(((values[labels == c] - values[labels == c].mean(axis=0)) ** 2).sum() for c in np.unique(labels))


def test_planted_clusters_of_every_table_are_recovered():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, size=(6, 40))
    tables = 5 * rng.normal(size=(6, 4, 3))[np.arange(6)[:, None], truth] + 0.01 * rng.normal(size=(6, 40, 3))
    found = k_means(tables, 4, np.random.default_rng(1), restarts=10)
    assert [adjusted_rand_score(a, b) for a, b in zip(truth, found, strict=True)] == [1.0] * 6


def test_sum_of_squares_is_as_low_as_that_of_scikit_learn():
    tables = np.random.default_rng(2).normal(size=(3, 60, 5))
    found = k_means(tables, 6, np.random.default_rng(3), restarts=30)
    for values, labels in zip(tables, found, strict=True):
        assert cost(values, labels) < 1.03 * KMeans(6, n_init=30, random_state=0).fit(values).inertia_


def test_more_clusters_than_distinct_observations_leave_some_empty():
    tables = np.repeat(np.array([[0.0], [1.0]]), 5, axis=0)[None]
    labels = k_means(tables, 3, np.random.default_rng(4), restarts=2)[0]
    assert len(set(labels[:5])) == len(set(labels[5:])) == 1
    assert labels[0] != labels[5]
