"""Units: means over groups, weights that give the same, halves that divide no group; and what intervals cover by them.

2,000 studies each: the share that an interval of 95 % covers is told to about 1.5 points by three standard errors.
"""

import numpy as np
import pytest

from diffmech.mechanisms.entropy import divergence_interval
from diffmech.statistics.bootstrap import bootstrap_mean, resampling_weights
from diffmech.statistics.permutation import label_permutation, permutation_p
from diffmech.statistics.units import codes, first_units, halves, number_of_units, over_units, spread, unit_weights

GROUPS = np.array(["b", "a", "b", "c", "a", "b"])
STUDIES, PERSONS, ALIKE = 2000, 40, 0.8


def test_a_unit_is_the_mean_of_its_samples_in_the_order_of_first_appearance():
    values = np.random.default_rng(0).normal(size=(6, 3))
    expected = np.stack([values[[0, 2, 5]].mean(0), values[[1, 4]].mean(0), values[3]])
    np.testing.assert_allclose(over_units(values, GROUPS), expected, rtol=1e-12)
    np.testing.assert_allclose(over_units(values.T, GROUPS, axis=1), expected.T, rtol=1e-12)
    np.testing.assert_allclose(over_units(np.stack([values, -values]), GROUPS, axis=-2)[1], -expected, rtol=1e-12)
    assert codes(GROUPS).tolist() == [0, 1, 0, 2, 1, 0]
    assert number_of_units(6, GROUPS) == 3
    assert number_of_units(6, None) == 6


def test_without_groups_or_with_one_for_each_sample_nothing_changes():
    values = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    assert over_units(values, None) is values
    np.testing.assert_array_equal(over_units(values, np.array(list("uvwxyz"))), values)
    assert over_units(values, GROUPS).dtype == np.float32
    assert over_units(values[:0], GROUPS[:0]).shape == (0, 3)


def test_what_is_not_known_of_one_sample_is_not_known_of_its_unit():
    values = np.array([1.0, 2.0, np.nan, 4.0, 5.0, 6.0])
    np.testing.assert_array_equal(np.isnan(over_units(values, GROUPS)), [True, False, False])


def test_groups_of_another_number_of_samples_are_refused():
    with pytest.raises(ValueError, match="6 groups were given for 5 samples"):
        over_units(np.zeros((5, 2)), GROUPS)


def test_weights_of_samples_give_the_means_of_units():
    values = np.random.default_rng(2).normal(size=(6, 2))
    units = over_units(values, GROUPS)
    np.testing.assert_allclose(unit_weights(6, GROUPS) @ values, units.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(unit_weights(6, None), np.full(6, 1 / 6))
    weights = resampling_weights(3, 20, seed=0)
    np.testing.assert_allclose(spread(weights, GROUPS) @ values, weights @ units, rtol=1e-9)
    np.testing.assert_allclose(spread(weights, GROUPS).sum(axis=1), 1)


def test_halves_and_first_units_divide_no_group():
    first, second = halves(6, GROUPS)
    assert first.tolist() == [0, 2, 5]
    assert second.tolist() == [1, 3, 4]
    assert first_units(GROUPS, 6, 2).tolist() == [0, 1, 2, 4, 5]
    assert [half.tolist() for half in halves(5, None)] == [[0, 1], [2, 3, 4]]


def persons(rng):
    """Return the person of each image: PERSONS of them, with 4 to 8 images each, in random order."""
    return rng.permutation(np.repeat(np.arange(PERSONS), rng.integers(4, 9, PERSONS)))


def measured(rng, person, shape, alike=ALIKE):
    """Return values (image, *shape) of variance 1, of which two images of a person share `alike`."""
    own = rng.standard_normal((PERSONS, *shape), dtype=np.float32)
    return alike**0.5 * own[person] + (1 - alike) ** 0.5 * rng.standard_normal((len(person), *shape), dtype=np.float32)


def covered(low, high, truth):
    return float(np.mean((np.asarray(low) <= truth) & (truth <= np.asarray(high))))


def test_intervals_of_means_cover_by_persons_and_not_by_images():
    rng = np.random.default_rng(3)
    person = persons(rng)
    values = measured(rng, person, (STUDIES,))
    by_person, by_image = (bootstrap_mean(over_units(values, of), draws=600) for of in (person, None))
    assert 0.93 <= covered(by_person.low, by_person.high, 0) <= 0.97
    assert covered(by_image.low, by_image.high, 0) < 0.75
    wider = np.mean(by_person.high - by_person.low) / np.mean(by_image.high - by_image.low)
    # of m images of a person: root of 1 + (m - 1) ALIKE
    assert wider == pytest.approx((1 + (len(person) / PERSONS - 1) * ALIKE) ** 0.5, rel=0.15)


def test_intervals_of_the_divergence_cover_by_persons_and_not_by_images():
    """Six heads, of which three have more entropy in one domain and three in the other, in each of the studies."""
    rng = np.random.default_rng(4)
    shift = np.float32([1, 1.2, 1.4, -1, -1.2, -1.4])
    groups = [persons(rng) for _ in range(2)]
    # the heads of an image are alike, as layers of a network are
    a, b = (
        measured(rng, of, (STUDIES, 6)) / 2 + measured(rng, of, (STUDIES, 1)) / 2 + sign * shift / 2
        for of, sign in zip(groups, (1, -1), strict=True)
    )
    weights, truth = np.full((6, 1), 1 / 6), np.abs(shift).mean()
    settings = {"draws": 300, "confidence": 0.95, "seed": 0}
    ends = divergence_interval(over_units(a, groups[0]), over_units(b, groups[1]), weights, **settings)
    assert 0.93 <= covered(*ends, truth) <= 0.97
    some = slice(0, 500)
    assert covered(*divergence_interval(a[:, some], b[:, some], weights, **settings), truth) < 0.75


def test_shuffled_labels_of_persons_keep_the_level_and_of_images_do_not():
    rng = np.random.default_rng(5)
    groups = [persons(rng) for _ in range(2)]
    a, b = (measured(rng, of, (STUDIES,)) for of in groups)
    rejected = []
    for first, second in ((over_units(a, groups[0]), over_units(b, groups[1])), (a, b)):
        observed, null = label_permutation(lambda x, y: np.abs(x - y), first, second, permutations=199)
        rejected.append(np.mean(np.asarray(permutation_p(observed, null)) <= 0.05))
    assert rejected[0] == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / STUDIES) ** 0.5)
    assert rejected[1] > 0.25


@pytest.mark.parametrize("alike", [0.0, 0.4, ALIKE])
def test_labels_of_persons_and_of_single_images_are_never_told_apart_too_often(alike):
    """Means over a person's images vary less than images, and are fewer: the test then errs on the side of caution."""
    rng = np.random.default_rng(6)
    person = persons(rng)
    a, b = over_units(measured(rng, person, (STUDIES,), alike), person), rng.standard_normal((160, STUDIES))
    observed, null = label_permutation(lambda x, y: np.abs(x - y), a, b, permutations=199)
    rejected = np.mean(np.asarray(permutation_p(observed, null)) <= 0.05)
    assert rejected <= 0.05 + 3 * (0.05 * 0.95 / STUDIES) ** 0.5
