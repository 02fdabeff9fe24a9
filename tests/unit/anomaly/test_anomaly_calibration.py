"""Variances and probabilities that are true by construction are called true, and others are not; risk and coverage."""

import numpy as np
import pytest
from made_slices import discs

from diffmech.anomaly.calibration import (
    calibration_of,
    rank_correlation,
    reliability,
    slice_probabilities,
    variance_calibration,
)
from diffmech.anomaly.review import ranked_for_review, risk_coverage, slice_threshold
from diffmech.anomaly.uncertainty import Prediction


def drawn(factor=1.0, count=40):
    source = np.random.default_rng(0)
    deviation = np.exp(source.normal(-3, 0.5, (count, 1, 30, 30)))
    error = np.abs(deviation * source.standard_normal(deviation.shape))
    return calibration_of(error, factor * deviation, np.ones(deviation.shape, dtype=bool), 8)


def test_a_true_deviation_covers_what_it_says_and_grows_with_the_error():
    found = drawn()
    assert np.abs(found.coverage - found.levels).max() < 0.01
    assert found.calibration_error < 0.005
    assert found.normalised_error < 0.03
    assert np.allclose(found.observed, found.predicted, rtol=0.08)
    assert np.isclose(found.share.sum(), 1)
    assert found.pixel_correlation > 0.3


def test_a_deviation_that_is_half_of_the_true_one_covers_too_little():
    found = drawn(0.5)
    assert (found.coverage < found.levels).all()
    assert found.calibration_error > 0.2
    assert found.normalised_error == pytest.approx(1, abs=0.05)  # errors are twice what is predicted
    assert found.pixel_correlation == pytest.approx(drawn().pixel_correlation)  # no less informative


def test_one_deviation_for_all_pixels_can_be_calibrated_and_says_nothing():
    source = np.random.default_rng(1)
    error = np.abs(0.1 * source.standard_normal((20, 1, 30, 30)))
    found = calibration_of(error, np.full(error.shape, 0.1), np.ones(error.shape, dtype=bool), 5)
    assert found.calibration_error < 0.01
    assert found.variation == pytest.approx(0, abs=1e-12)
    assert np.isnan(found.pixel_correlation)


def test_variances_are_judged_on_brain_pixels_of_slices_without_a_lesion():
    slices = discs(3)
    source = np.random.default_rng(2)
    wrong = np.where(slices.abnormal[:, None, None] | ~slices.brain, 1e3, 0)[:, None]
    deviation = np.full(slices.images.shape, 0.1, dtype=np.float32)
    mean = slices.images + 0.1 * source.standard_normal(slices.images.shape) + wrong
    zero = np.zeros_like(deviation)
    found = variance_calibration(Prediction(mean, zero, zero, deviation**2), slices, 4)
    assert found.calibration_error < 0.05


def test_rank_correlation_is_that_of_scipy():
    from scipy.stats import spearmanr

    first, second = np.random.default_rng(3).integers(0, 9, (2, 50))
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)


def test_probabilities_are_reliable_when_the_curve_is_true_and_the_ece_is_counted_by_hand():
    source = np.random.default_rng(4)
    score = source.normal(size=4000)
    abnormal = source.random(4000) < 1 / (1 + np.exp(-2 * score + 1))
    probability = slice_probabilities(score[:2000], abnormal[:2000], score[2000:])
    found = reliability(probability, abnormal[2000:], 10)
    assert found.calibration_error < 0.04
    by_hand = sum(
        abs(probability[rows].mean() - abnormal[2000:][rows].mean()) * rows.mean()
        for rows in (np.floor(probability * 10).clip(0, 9) == each for each in range(10))
        if rows.any()
    )
    assert found.calibration_error == pytest.approx(by_hand)
    assert found.slices.sum() == 2000
    assert reliability(np.full(100, 0.99), np.zeros(100, dtype=bool), 10).calibration_error == pytest.approx(0.99)
    assert slice_probabilities(score, np.ones(4000, dtype=bool), score) is None


def test_risk_and_coverage_of_a_few_decisions_by_hand():
    wrong, doubt = np.array([False, True, False, True]), np.array([0.1, 0.4, 0.2, 0.3])
    found = risk_coverage(wrong, doubt)
    assert found.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert found.risk.tolist() == pytest.approx([0, 0, 1 / 3, 0.5])
    assert found.area == found.best_area == pytest.approx((1 / 3 + 0.5) / 4)
    worst = risk_coverage(wrong, -doubt)
    assert worst.area == pytest.approx((1 + 1 + 2 / 3 + 0.5) / 4)
    assert found.random_area == 0.5


def test_doubt_that_is_equal_everywhere_leaves_the_risk_of_chance():
    wrong = np.random.default_rng(5).random(200) < 0.3
    found = risk_coverage(wrong, np.zeros(200))
    assert np.allclose(found.risk, wrong.mean())
    assert found.area == pytest.approx(found.random_area)


def test_slices_for_review_stand_by_their_score_and_the_threshold_is_that_of_healthy_ones():
    slices = discs(3)
    score = np.arange(len(slices), dtype=float)[::-1]
    threshold = slice_threshold(score, slices, 0.25)
    assert (score[~slices.abnormal] > threshold).mean() == pytest.approx(0.25, abs=0.12)
    table = ranked_for_review(slices, score, np.zeros(len(slices)), threshold)
    assert table["rank"].tolist() == list(range(1, len(slices) + 1))
    assert table["score"].is_monotonic_decreasing
    assert table["patient"].iloc[0] == "p00"
    assert (table["flagged"] == (table["score"] > threshold)).all()
