"""AUC and average precision, overall and within bins of position: scikit-learn, and pairs counted one by one."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from diffmech.anomaly.discrimination import (
    Cases,
    average_precision,
    cases,
    compared,
    interval,
    random_precision,
    roc_auc,
)
from diffmech.config.anomaly import AnomalyEvaluationConfig

CONFIG = AnomalyEvaluationConfig(draws=400)


def some(patients=6, each=12, seed=0, ties=True):
    source = np.random.default_rng(seed)
    n = patients * each
    score = source.normal(size=n)
    score = np.round(score, 1) if ties else score
    given = Cases(source.random(n) < 0.4, np.repeat(np.arange(patients), each), source.integers(0, 4, n))
    return score, given


def even(given: Cases) -> np.ndarray:
    return np.full((1, given.patients), 1 / given.patients)


def everywhere(given: Cases) -> Cases:
    """Return the same slices in one stratum."""
    return replace(given, stratum=np.zeros(len(given.abnormal), dtype=np.intp))


def minus(first, second):
    return lambda weights: first(weights) - second(weights)


def test_in_one_stratum_both_are_those_of_scikit_learn_ties_and_all():
    score, given = some()
    whole = everywhere(given)
    assert roc_auc(score, whole)(even(whole))[0] == pytest.approx(roc_auc_score(given.abnormal, score))
    found = average_precision(score, whole)(even(whole))[0]
    assert found == pytest.approx(average_precision_score(given.abnormal, score))


def test_a_patient_drawn_twice_is_in_the_sample_twice():
    score, given = some()
    drawn = np.array([2, 2, 0, 5, 1, 2])
    rows = np.concatenate([np.flatnonzero(given.patient == each) for each in drawn])
    weights = np.bincount(drawn, minlength=6)[None] / 6
    whole = everywhere(given)
    assert roc_auc(score, whole)(weights)[0] == pytest.approx(roc_auc_score(given.abnormal[rows], score[rows]))
    found = average_precision(score, whole)(weights)[0]
    assert found == pytest.approx(average_precision_score(given.abnormal[rows], score[rows]))


def test_matched_auc_is_the_share_of_pairs_within_bins_counted_one_by_one():
    score, given = some()
    won = pairs = ill = 0
    for one in np.flatnonzero(given.abnormal):
        rivals = np.flatnonzero(~given.abnormal & (given.stratum == given.stratum[one]))
        won += sum(float(score[one] > score[other]) + 0.5 * float(score[one] == score[other]) for other in rivals)
        pairs, ill = pairs + len(rivals), ill + bool(len(rivals))
    assert roc_auc(score, given)(even(given))[0] == pytest.approx(won / pairs)
    assert compared(given) == (pairs, ill)


def test_matched_precision_is_that_of_each_bin_weighted_by_its_lesions():
    score, given = some()
    parts = [given.stratum == each for each in range(4)]
    own = [average_precision_score(given.abnormal[rows], score[rows]) for rows in parts]
    ill = [given.abnormal[rows].sum() for rows in parts]
    assert average_precision(score, given)(even(given))[0] == pytest.approx(np.average(own, weights=ill))


def test_the_floor_is_what_all_orders_have_on_average():
    parts = [np.array([1, 0, 0, 1, 0]), np.array([1, 0, 0, 0]), np.array([0, 0])]
    abnormal, stratum = np.concatenate(parts) > 0, np.repeat([0, 1, 2], [5, 4, 2])
    given = Cases(abnormal, np.zeros(11, dtype=int), stratum)
    every = [
        np.mean([average_precision_score(part, order) for order in permutations(range(len(part)))])
        for part in parts[:2]
    ]
    assert random_precision(given) == pytest.approx(np.average(every, weights=[2, 1]))
    assert np.isnan(random_precision(Cases(abnormal, given.patient, np.full(11, -1))))


def test_the_interval_of_a_random_score_holds_its_floor_in_small_bins():
    """Ties of patients who are drawn twice raise the average precision, so that the plain interval lies above."""
    source = np.random.default_rng(3)
    patient, stratum = np.repeat(np.arange(20), 12), np.arange(240) % 24
    given = Cases(source.random(240) < 0.4, patient, stratum)
    floor, config = random_precision(given), AnomalyEvaluationConfig(draws=200)
    inside = np.zeros(2)
    for _ in range(20):
        precision = average_precision(source.random(240), given)
        for place, centred in enumerate((False, True)):
            found = interval(precision, 20, config, given.holding, centred=centred)
            inside[place] += found.low <= floor <= found.high
    assert inside[1] >= 18
    assert inside[0] <= 14


def test_a_score_that_only_knows_the_position_tells_slices_apart_and_not_within_fine_bins():
    position = np.tile(np.linspace(0, 1, 100), 8)
    source = np.random.default_rng(0)
    abnormal = source.random(800) < 0.9 * np.exp(-0.5 * ((position - 0.5) / 0.15) ** 2)
    patient = np.repeat(np.arange(8), 100)
    score = -np.abs(position - 0.5)
    given = cases(abnormal, patient, position, 20)
    assert roc_auc(score, everywhere(given))(even(given))[0] > 0.85
    assert roc_auc(score, given)(even(given))[0] == pytest.approx(0.5, abs=0.06)
    coarse = cases(abnormal, patient, position, 4)
    assert roc_auc(score, coarse)(even(given))[0] > 0.6  # wide bins do not match


def test_matching_leaves_what_is_seen_in_the_image():
    """A score that sees lesions and nothing else is as good within bins as overall."""
    position = np.tile(np.linspace(0, 1, 60), 10)
    source = np.random.default_rng(1)
    abnormal = source.random(600) < 0.8 * np.exp(-0.5 * ((position - 0.5) / 0.2) ** 2)
    score = abnormal + source.normal(size=600)
    given = cases(abnormal, np.repeat(np.arange(10), 60), position, 10)
    overall, matched = (roc_auc(score, each)(even(given))[0] for each in (everywhere(given), given))
    assert matched == pytest.approx(overall, abs=0.03)
    assert overall == pytest.approx(0.76, abs=0.03)


def test_bins_are_equally_wide_folds_apart_and_unknown_positions_in_none():
    position = np.array([0.0, 0.24, 0.25, 1.0, np.nan])
    found = cases(np.zeros(5), np.array(list("aabbc")), position, 4)
    assert found.stratum.tolist() == [0, 0, 1, 3, -1]
    folds = cases(np.zeros(5), np.array(list("aabbc")), position, 4, np.array([0, 1, 1, 1, 0]))
    assert folds.stratum.tolist() == [0, 4, 5, 7, -1]


def test_nothing_to_compare_gives_no_number():
    given = cases(np.array([True, False]), np.array(["a", "b"]), np.array([0.1, 0.9]), 2)
    assert np.isnan(roc_auc(np.array([1.0, 0.0]), given)(even(given))[0])
    assert np.isnan(average_precision(np.array([1.0, 0.0]), given)(even(given))[0])
    assert compared(given) == (0, 0)


def test_a_random_score_has_an_auc_of_one_half_and_the_prevalence_within_its_interval():
    source = np.random.default_rng(2)
    inside = {"auc": 0, "precision": 0}
    for _ in range(20):
        given = Cases(source.random(240) < 0.4, np.repeat(np.arange(12), 20), source.integers(0, 5, 240))
        score = source.normal(size=240)
        auc = interval(roc_auc(score, given), given.patients, CONFIG)
        inside["auc"] += auc.low <= 0.5 <= auc.high
        whole = everywhere(given)
        precision = interval(average_precision(score, whole), given.patients, CONFIG)
        inside["precision"] += precision.low <= given.abnormal.mean() <= precision.high
    assert min(inside.values()) >= 17


def test_the_interval_of_a_difference_is_paired_and_that_of_a_score_with_itself_is_nothing():
    score, given = some(ties=False)
    first = roc_auc(score, given)
    none = interval(minus(first, first), given.patients, CONFIG)
    assert (none.estimate, none.low, none.high) == (0, 0, 0)
    shifted = score + 0.3 * given.abnormal
    both = interval(minus(roc_auc(shifted, given), first), given.patients, CONFIG)
    alone = [interval(each, given.patients, CONFIG) for each in (roc_auc(shifted, given), first)]
    assert both.low > 0
    assert both.high - both.low < min(each.high - each.low for each in alone)


def test_a_lesion_of_few_patients_is_in_every_draw_and_its_interval_is_no_hole():
    """Two of twelve have the lesion: of whole draws, one in nine would have nothing to find."""
    source = np.random.default_rng(3)
    patient = np.repeat(np.arange(12), 20)
    abnormal = (patient < 2) & (source.random(240) < 0.5)
    score = source.normal(size=240) + 2 * abnormal
    given = Cases(abnormal, patient, np.zeros(240, dtype=np.intp))
    assert given.holding.tolist() == [True] * 2 + [False] * 10
    statistic = average_precision(score, given)
    assert np.isnan(interval(statistic, 12, CONFIG).low)
    found = interval(statistic, 12, CONFIG, given.holding)
    assert found.estimate == pytest.approx(average_precision_score(abnormal, score))
    assert found.low < found.estimate < found.high


def test_patients_with_and_without_a_lesion_are_resampled_apart_and_count_as_many_as_there_are():
    holding = np.array([True, False, True, False, False])
    drawn = []

    def held(weights):
        drawn.append(weights)
        return weights[:, holding].sum(1)

    found = interval(held, 5, CONFIG, holding)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.4, 0.4, 0.4))
    every = np.concatenate(drawn)
    assert np.allclose(every.sum(1), 1)
    assert len(np.unique(every[:, 0])) > 1


def test_one_patient_alone_tells_nothing_of_others_and_one_alone_without_is_in_every_draw():
    ill = np.array([True, False, False, False])
    first = interval(lambda weights: weights @ np.arange(4.0), 4, CONFIG, ill)
    assert first.estimate == pytest.approx(1.5)
    assert np.isnan([first.low, first.high]).all()
    last = interval(lambda weights: weights[:, 0], 4, CONFIG, ~ill)
    assert (last.low, last.high) == pytest.approx((0.25, 0.25))
    everybody = interval(lambda weights: weights @ np.arange(4.0), 4, CONFIG, np.ones(4, dtype=bool))
    plain = interval(lambda weights: weights @ np.arange(4.0), 4, CONFIG)
    assert (everybody.low, everybody.high) == (plain.low, plain.high)
