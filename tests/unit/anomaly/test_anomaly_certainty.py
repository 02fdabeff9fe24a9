"""Variances and probabilities that are true by construction are called true, and others are not; risk and coverage."""

from types import SimpleNamespace

import numpy as np
import plain_certainty
import pytest
from made_slices import discs

from diffmech.anomaly import certainty
from diffmech.anomaly.certainty import LEVELS, slice_probabilities
from diffmech.anomaly.certainty_tables import variance_rows
from diffmech.anomaly.review import ranked_for_review, slice_threshold
from diffmech.anomaly.uncertainty import Prediction
from diffmech.config.anomaly import AnomalyEvaluationConfig


def evenly(statistic, patients):
    """Return a function of weights where all patients count alike."""
    return statistic(np.full((1, patients), 1 / patients))[0]


def judged(error, deviation, inside, bins, patient=None):
    """Return what is said of deviations `(slice, modality, y, x)`; by default each slice is a patient's."""
    patient = np.arange(len(error)).astype(str) if patient is None else patient
    pixels = certainty.pixel_errors(error, deviation, inside, patient)
    slices = certainty.slice_errors(error, deviation, inside, patient)
    count = pixels.patients
    predicted, observed = evenly(certainty.deviations(pixels, bins), count)
    return SimpleNamespace(
        levels=LEVELS,
        coverage=evenly(certainty.coverage(pixels), count),
        predicted=predicted,
        observed=observed,
        calibration_error=evenly(certainty.calibration_error(pixels), count),
        normalised_error=evenly(certainty.normalised_error(pixels, bins), count),
        variation=evenly(certainty.variation(slices), count),
        pixel_correlation=evenly(certainty.correlation(pixels), count),
        slice_correlation=evenly(certainty.correlation(slices), count),
    )


def drawn(factor=1.0, count=40):
    source = np.random.default_rng(0)
    deviation = np.exp(source.normal(-3, 0.5, (count, 1, 30, 30)))
    error = np.abs(deviation * source.standard_normal(deviation.shape))
    return judged(error, factor * deviation, np.ones(deviation.shape, dtype=bool), 8)


def test_a_true_deviation_covers_what_it_says_and_grows_with_the_error():
    found = drawn()
    assert np.abs(found.coverage - found.levels).max() < 0.01
    assert found.calibration_error < 0.005
    assert found.normalised_error < 0.03
    assert np.allclose(found.observed, found.predicted, rtol=0.08)
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
    found = judged(error, np.full(error.shape, 0.1), np.ones(error.shape, dtype=bool), 5)
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
    config = AnomalyEvaluationConfig(calibration_bins=4, draws=20)
    rows = variance_rows(Prediction(mean, zero, zero, deviation**2), slices, config)["anomaly_calibration"]
    [row] = [row for row in rows if row["quantity"] == "calibration_error"]
    assert row["value"] < 0.05


def test_correlation_of_ranks_is_that_of_scipy():
    from scipy.stats import spearmanr

    first, second = np.random.default_rng(3).integers(0, 9, (2, 50))
    given = certainty.Errors(first, second, np.arange(50), 50)
    assert evenly(certainty.correlation(given), 50) == pytest.approx(spearmanr(first, second).statistic)


def test_at_equal_weights_certainty_is_what_its_definitions_say():
    source = np.random.default_rng(0)
    deviation = np.exp(source.normal(-3, 0.5, (12, 1, 8, 8)))
    error = np.abs(deviation * source.standard_normal(deviation.shape))
    inside = source.random(deviation.shape) < 0.7
    found = judged(error, deviation, inside, 5, np.repeat(["a", "b", "c"], 4))
    expected = vars(plain_certainty.calibration_of(error, deviation, inside, 5))
    for name, value in vars(found).items():
        np.testing.assert_allclose(value, expected[name], err_msg=name)


def test_probabilities_are_reliable_when_the_curve_is_true_and_the_ece_is_counted_by_hand():
    source = np.random.default_rng(4)
    score = source.normal(size=4000)
    abnormal = source.random(4000) < 1 / (1 + np.exp(-2 * score + 1))
    probability = slice_probabilities(score[:2000], abnormal[:2000], score[2000:])
    found = expected_error(probability, abnormal[2000:])
    assert found < 0.04
    by_hand = sum(
        abs(probability[rows].mean() - abnormal[2000:][rows].mean()) * rows.mean()
        for rows in (np.floor(probability * 10).clip(0, 9) == each for each in range(10))
        if rows.any()
    )
    assert found == pytest.approx(by_hand)
    assert expected_error(np.full(100, 0.99), np.zeros(100, dtype=bool)) == pytest.approx(0.99)
    assert slice_probabilities(score, np.ones(4000, dtype=bool), score) is None


def expected_error(probability, abnormal):
    """Return the ECE over ten bins, where it is also what its definition says, bin by bin."""
    patient = np.arange(len(probability)) % 7
    # patients of other sizes count by their slices: equal weights of patients are those of slices
    found = evenly(certainty.expected_error(probability, abnormal, patient.astype(str), 10), 7)
    plain = plain_certainty.reliability(probability, abnormal, 10)
    predicted, observed = evenly(certainty.reliability(probability, abnormal, patient.astype(str), 10), 7)
    full = ~np.isnan(predicted)
    np.testing.assert_allclose(predicted[full], plain.predicted)
    np.testing.assert_allclose(observed[full], plain.observed)
    assert found == pytest.approx(plain.calibration_error)
    return found


def risked(wrong, doubt, grid=(0.25, 0.5, 0.75, 1.0), patients=4):
    """Return the area and the risks at the coverages `grid`; slices are dealt out to patients."""
    patient = (np.arange(len(wrong)) % patients).astype(str)
    area, _, *risks = evenly(certainty.risk(wrong, doubt, patient, np.array(grid)), patients)
    return area, risks


def test_risk_and_coverage_of_a_few_decisions_by_hand():
    wrong, doubt = np.array([False, True, False, True]), np.array([0.1, 0.4, 0.2, 0.3])
    area, risks = risked(wrong, doubt)
    assert risks == pytest.approx([0, 0, 1 / 3, 0.5])
    assert area == pytest.approx((1 / 3 + 0.5) / 4)
    assert risked(wrong, wrong)[0] == pytest.approx((1 / 3 + 0.5) / 4)  # the best possible order
    assert risked(wrong, -doubt)[0] == pytest.approx((1 + 1 + 2 / 3 + 0.5) / 4)


def test_doubt_that_is_equal_everywhere_leaves_the_risk_of_chance_in_whatever_order_slices_come():
    wrong = np.random.default_rng(5).random(200) < 0.3
    for order in (np.arange(200), np.argsort(wrong), np.argsort(~wrong)):
        area, risks = risked(wrong[order], np.zeros(200))
        assert np.allclose(risks, wrong.mean())
        assert area == pytest.approx(wrong.mean())


@pytest.mark.parametrize("levels", [3, 1000])
def test_the_area_under_risk_is_what_its_definition_says_with_and_without_ties(levels):
    source = np.random.default_rng(6)
    wrong, doubt = source.random(60) < 0.3, source.integers(0, levels, 60)
    expected = plain_certainty.risk_coverage(wrong, doubt)
    area, risks = risked(wrong, doubt, np.arange(1, 61) / 60)
    np.testing.assert_allclose(risks, expected.risk)
    assert area == pytest.approx(expected.area)
    assert risked(wrong, wrong)[0] == pytest.approx(expected.best_area)


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
