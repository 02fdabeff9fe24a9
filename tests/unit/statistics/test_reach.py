"""What a test can see is what simulated tests see, and what enumerated permutations give."""

import itertools
import math

import numpy as np
import pytest

from diffmech.statistics.permutation import max_statistic_p, permutation_p, sign_flip_permutation
from diffmech.statistics.reach import (
    draws_needed,
    images_needed,
    joint_rank_threshold,
    power_among,
    rank_threshold,
    smallest_effect,
    smallest_effect_among,
    smallest_label_p,
    smallest_rank_p,
    smallest_sign_flip_p,
    units_needed,
)


def test_four_images_allow_no_sign_flip_p_below_an_eighth():
    observed, null = sign_flip_permutation(np.abs, np.array([10.0, 11.0, 9.0, 10.5]), permutations=20000)
    assert smallest_sign_flip_p(4, 20000) == pytest.approx(0.125, abs=1e-3)
    assert permutation_p(observed, null) == pytest.approx(smallest_sign_flip_p(4, 20000), abs=0.01)


@pytest.mark.parametrize("sizes", [(3, 3), (2, 4), (4, 4)])
def test_smallest_label_p_is_that_of_all_labellings_of_groups_far_apart(sizes):
    values = np.concatenate([np.arange(sizes[0]) / 10, 100 + np.arange(sizes[1]) ** 2 / 10])
    differences = [
        abs(values[list(members)].mean() - np.delete(values, members).mean())
        for members in itertools.combinations(range(len(values)), sizes[0])
    ]
    share = np.mean(np.array(differences) >= max(differences) - 1e-9)
    assert smallest_label_p(*sizes, 10**9) == pytest.approx(share, rel=1e-6)


def test_needed_numbers_are_the_fewest_that_reach_the_level():
    assert draws_needed(0.05) == 19
    assert smallest_rank_p(19) <= 0.05 < smallest_rank_p(18)
    for tests in (1, 7, 240):
        units = units_needed(0.05, tests)
        assert tests * 2.0 ** (1 - units) <= 0.05 < tests * 2.0 ** (2 - units)


def test_power_among_controls_is_that_of_simulated_ranks():
    rng = np.random.default_rng(0)
    for effect, draws, tests in ((3.0, 20, 1), (3.0, 40, 6), (4.0, 60, 12)):
        null = rng.standard_normal((4000, draws, tests)).max(axis=2)
        p = (1 + (null >= (effect + rng.standard_normal(4000))[:, None]).sum(axis=1)) / (1 + draws)
        assert power_among(effect, draws, alpha=0.05, tests=tests) == pytest.approx((p <= 0.05).mean(), abs=0.03)


def test_too_few_controls_see_no_effect_however_large():
    assert power_among(50.0, 18, alpha=0.05) == 0
    assert math.isinf(smallest_effect_among(18, alpha=0.05))
    seen = smallest_effect_among(20, alpha=0.05)
    assert power_among(seen, 20, alpha=0.05) == pytest.approx(0.8, abs=0.01)


def test_the_smallest_effect_of_a_mean_is_found_four_times_in_five():
    rng, n = np.random.default_rng(1), 16
    effect = float(smallest_effect(1 / math.sqrt(n), n - 1, alpha=0.05))
    values = effect + rng.standard_normal((20000, n))
    t = values.mean(axis=1) / (values.std(axis=1, ddof=1) / math.sqrt(n))
    assert (np.abs(t) > 2.1314).mean() == pytest.approx(0.8, abs=0.02)
    assert np.isinf(smallest_effect(1.0, 0, alpha=0.05))


def test_a_value_beyond_the_threshold_of_its_rank_is_found_and_one_below_is_not():
    rng = np.random.default_rng(2)
    for draws, alpha in ((19, 0.05), (59, 0.05), (18, 0.05)):
        null = rng.gamma(2.0, size=draws)
        threshold = rank_threshold(null, alpha)
        if math.isinf(threshold):
            assert draws == 18
            continue
        for value, found in ((threshold * 1.01, True), (threshold * 0.99, False)):
            assert (permutation_p(value, null) <= alpha) == found


def test_a_value_beyond_the_joint_threshold_is_found_and_one_below_is_not():
    rng = np.random.default_rng(3)
    for _ in range(50):
        null = rng.gamma(2.0, size=(19, 2)) * [1, 50]
        value = np.array([0.0, rng.gamma(2.0) * 50])  # the second test decides nothing here

        def joint_p(first, null=null, value=value):
            both = np.array([first, value[1]])
            scale = (null.sum(axis=0) + both) / 20
            return max_statistic_p(both / scale, null / scale)[0], null / scale

        threshold = joint_rank_threshold(null, joint_p(0.0)[1], 0.05)[0]
        assert joint_p(threshold * 1.01)[0] <= 0.05 < joint_p(threshold * 0.99)[0]


def test_needed_images_are_the_fewest_that_permuted_labels_need():
    for tests in (1, 3, 20):
        images = images_needed(0.05, tests)
        assert tests * smallest_label_p(images, images, 10**9) <= 0.05
        assert tests * smallest_label_p(images - 1, images - 1, 10**9) > 0.05
