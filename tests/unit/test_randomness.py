"""Random numbers belong to what they are for, not to when they are drawn."""

import numpy as np
from scipy import stats

from diffmech.randomness import generator, noise


def test_noise_of_a_sample_does_not_depend_on_any_other():
    alone = noise(0, 7, 500, (2, 3))
    drawn_with_others = [noise(0, sample, 500, (2, 3)) for sample in range(10)][7]
    assert np.array_equal(alone, drawn_with_others)


def test_each_key_has_its_own_stream():
    keys = [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1), (0, 12, 0), (0, 1, 20)]
    draws = np.array([noise(*key, (64,)) for key in keys])
    correlations = np.corrcoef(draws)[~np.eye(len(keys), dtype=bool)]
    assert np.abs(correlations).max() < 0.6
    assert not np.array_equal(generator(0, "1").random(3), generator(0, 1).random(3))


def test_noise_is_standard_normal():
    values = np.concatenate([noise(3, sample, 10, (100,)) for sample in range(200)])
    assert values.dtype == np.float32
    assert stats.kstest(values, "norm").pvalue > 1e-3
