"""Measures of pixels: scikit-learn and counting by hand, thresholds from healthy slices, sizes and kinds of lesions."""

from dataclasses import replace

import numpy as np
import pytest
from made_slices import discs
from sklearn.metrics import average_precision_score

from diffmech.anomaly.pixels import (
    best_dice,
    dice_at,
    healthy_threshold,
    kind_rows,
    lesion_rows,
    pixel_average_precision,
    pixel_counts,
    pixel_prevalence,
)


@pytest.fixture(scope="module")
def slices():
    return discs(5, 8)


@pytest.fixture(scope="module")
def noisy(slices):
    source = np.random.default_rng(0)
    return (slices.lesion + source.normal(size=slices.lesion.shape)).astype(np.float32)


def even(count=5):
    return np.full((1, count), 1 / count)


def test_average_precision_is_that_of_scikit_learn_over_brain_pixels(slices, noisy):
    exact = average_precision_score(slices.lesion[slices.brain], noisy[slices.brain])
    counts = pixel_counts(noisy, slices)
    assert pixel_average_precision(counts)(even())[0] == pytest.approx(exact, abs=0.002)
    assert pixel_prevalence(counts)(even())[0] == pytest.approx(slices.lesion.sum() / slices.brain.sum())


def test_what_lies_outside_of_the_brain_has_no_say(slices, noisy):
    other = np.where(slices.brain, noisy, 100).astype(np.float32)
    found = [pixel_average_precision(pixel_counts(each, slices))(even())[0] for each in (noisy, other)]
    assert found[0] == found[1]


def test_a_patient_drawn_twice_counts_twice_and_one_not_drawn_not_at_all(slices, noisy):
    drawn = ["p03", "p03", "p01", "p04", "p00"]
    rows = np.concatenate([np.flatnonzero(slices.patient == each) for each in drawn])
    brain = slices.brain[rows]
    exact = average_precision_score(slices.lesion[rows][brain], noisy[rows][brain])
    weights = np.array([[1, 1, 0, 2, 1]]) / 5
    assert pixel_average_precision(pixel_counts(noisy, slices))(weights)[0] == pytest.approx(exact, abs=0.002)


def test_a_map_of_chance_has_the_prevalence_and_the_mask_itself_has_all(slices):
    chance = np.random.default_rng(1).random(slices.brain.shape, dtype=np.float32)
    share = slices.lesion.sum() / slices.brain.sum()
    assert pixel_average_precision(pixel_counts(chance, slices))(even())[0] == pytest.approx(share, abs=0.02)
    truth = pixel_counts(slices.lesion.astype(np.float32), slices)
    assert pixel_average_precision(truth)(even())[0] == 1
    assert best_dice(truth)(even())[0] == 1


def test_dice_is_twice_the_overlap_over_both_areas_and_no_threshold_beats_the_best(slices, noisy):
    inside = slices.brain
    dice = []
    for threshold in np.quantile(noisy[inside], np.linspace(0, 0.999, 200)):
        above = (noisy > threshold) & inside
        by_hand = 2 * (above & slices.lesion).sum() / (above.sum() + slices.lesion.sum())
        assert dice_at(noisy, slices, threshold)(even())[0] == pytest.approx(by_hand)
        dice.append(by_hand)
    best = best_dice(pixel_counts(noisy, slices))(even())[0]
    assert max(dice) - 1e-9 <= best < max(dice) + 0.02


def test_the_threshold_is_exceeded_by_the_share_of_healthy_pixels_that_was_asked_for(slices, noisy):
    normal = ~slices.abnormal
    threshold = healthy_threshold(noisy, slices, 0.05)
    assert (noisy[normal][slices.brain[normal]] > threshold).mean() == pytest.approx(0.05, abs=0.002)
    blind = healthy_threshold(np.where(slices.lesion, 1e6, noisy), slices, 0.05)
    assert blind == threshold


def test_lesions_are_grouped_by_the_largest_in_the_slice_and_by_kind_with_all_healthy_slices(slices):
    lesion = np.zeros_like(slices.lesion)
    lesion[0, 7, 7] = True
    lesion[1, 6:9, 6:9] = True
    lesion[2, 6:9, 6:9] = lesion[2, 11, 11] = True
    kind = np.array(["a", "b", "a+b", *[""] * (len(slices) - 3)])
    given = replace(slices, lesion=lesion, kind=kind)
    groups = lesion_rows(given, [4, 20])
    assert list(groups) == ["1 to 3 px", "4 to 19 px", "20 px and more"]
    healthy = list(range(3, len(slices)))
    assert [np.flatnonzero(rows).tolist() for rows in groups.values()] == [[0, *healthy], [1, 2, *healthy], healthy]
    kinds = kind_rows(given)
    assert {name: np.flatnonzero(rows).tolist()[0] for name, rows in kinds.items()} == {"a": 0, "b": 1}
    assert all(len(np.flatnonzero(rows)) == 1 + len(healthy) for rows in kinds.values())


def test_counts_of_a_group_are_numbered_by_all_patients(slices, noisy):
    rows = slices.patient == "p02"
    counts = pixel_counts(noisy, slices, rows)
    assert counts.ill.shape[0] == 5
    assert (counts.ill + counts.well).sum(1).nonzero()[0].tolist() == [2]
