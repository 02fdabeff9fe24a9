"""Whether predicted variances are true, and whether a probability of a slice is one.

A pixel's error over its predicted standard deviation should be standard normal. Coverage: the share of pixels within
the central interval of each level, beside the level; the expected calibration error is the mean distance of the two
over levels (Kuleshov et al. 2018). Size: in bins of predicted deviation the root mean square error, beside the root of
the mean predicted variance (Levi et al. 2022); their mean relative distance is the ENCE. Both say nothing about whether
the uncertainty is informative: one number for all pixels can be calibrated. So beside them stands how much it varies,
and the rank correlation of predicted deviation and error (Spearman), among pixels and among slices.

Probabilities of slices are calibrated by a logistic curve (Platt 1999) with the labels of validation patients: the one
place where a label of a slice with a lesion is used in fitting. Their reliability and ECE are those of Guo et al. 2017.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from diffmech.anomaly.slices import Slices
from diffmech.anomaly.uncertainty import Prediction

LEVELS = np.append(np.arange(1, 10) / 10, [0.95, 0.99])
LEAST = 1e-12


@dataclass(frozen=True)
class VarianceCalibration:
    """Of pixels of slices without a lesion: `levels` and `coverage` `(level,)`, `predicted` and `observed` deviation
    and the `share` of pixels `(bin,)`, and what sums them up. Correlations are NaN where nothing varies."""

    levels: np.ndarray
    coverage: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray
    share: np.ndarray
    calibration_error: float
    normalised_error: float
    variation: float
    pixel_correlation: float
    slice_correlation: float


def variance_calibration(prediction: Prediction, slices: Slices, bins: int) -> VarianceCalibration:
    """Return how true the total variance is on the brain pixels of slices without a lesion.

    `variation` is the coefficient of variation, over slices, of the mean predicted deviation of a slice.
    """
    normal = ~slices.abnormal
    inside = np.broadcast_to(slices.brain[normal][:, None], slices.images[normal].shape)
    error = np.abs(slices.images[normal] - prediction.mean[normal])
    deviation = np.sqrt(prediction.total[normal])
    return calibration_of(error, deviation, inside, bins)


def calibration_of(error: np.ndarray, deviation: np.ndarray, inside: np.ndarray, bins: int) -> VarianceCalibration:
    """Return how true `deviation` is of the size of `error`, both `(slice, modality, y, x)`, where `inside` is True."""
    errors, deviations = error[inside].astype(np.float64), deviation[inside].astype(np.float64)
    distances = errors / np.maximum(deviations, LEAST)
    coverage = np.array([(distances <= ndtri((1 + level) / 2)).mean() for level in LEVELS])
    order = np.array_split(np.argsort(deviations, kind="stable"), bins)
    predicted = np.array([np.sqrt((deviations[rows] ** 2).mean()) for rows in order if rows.size])
    observed = np.array([np.sqrt((errors[rows] ** 2).mean()) for rows in order if rows.size])
    share = np.array([rows.size / errors.size for rows in order if rows.size])
    counts = np.maximum(inside.sum((1, 2, 3)), 1)
    by_slice = [np.where(inside, each, 0).sum((1, 2, 3), dtype=np.float64) / counts for each in (error, deviation)]
    return VarianceCalibration(
        levels=LEVELS,
        coverage=coverage,
        predicted=predicted,
        observed=observed,
        share=share,
        calibration_error=float(np.abs(coverage - LEVELS).mean()),
        normalised_error=float((np.abs(observed - predicted) / np.maximum(predicted, LEAST)).mean()),
        variation=float(by_slice[1].std() / max(by_slice[1].mean(), LEAST)),
        pixel_correlation=rank_correlation(errors, deviations),
        slice_correlation=rank_correlation(*by_slice),
    )


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's correlation of two arrays `(sample,)`, NaN where either does not vary."""
    ranks = [rankdata(each) for each in (first, second)]
    if any(each.std() == 0 for each in ranks):
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def slice_probabilities(validation_score: np.ndarray, abnormal: np.ndarray, score: np.ndarray) -> np.ndarray | None:
    """Return the probability `(slice,)` that a slice of each `score` holds a lesion, by a logistic curve fitted to the
    scores and labels of validation patients; None where those are all of one kind."""
    if abnormal.all() or not abnormal.any():
        return None
    centre, deviation = validation_score.mean(), max(validation_score.std(), LEAST)
    fitted = LogisticRegression().fit(((validation_score - centre) / deviation)[:, None], abnormal)
    return np.asarray(fitted.predict_proba(((score - centre) / deviation)[:, None])[:, 1])


@dataclass(frozen=True)
class Reliability:
    """Mean probability, share that hold a lesion and number of slices in each bin `(bin,)`, and the ECE."""

    predicted: np.ndarray
    observed: np.ndarray
    slices: np.ndarray
    calibration_error: float


def reliability(probability: np.ndarray, abnormal: np.ndarray, bins: int) -> Reliability:
    """Return the reliability of probabilities `(slice,)` in equally wide bins; empty bins are left out."""
    place = np.minimum((probability * bins).astype(np.intp), bins - 1)
    used = np.unique(place)
    predicted = np.array([probability[place == each].mean() for each in used])
    observed = np.array([abnormal[place == each].mean() for each in used])
    counts = np.array([(place == each).sum() for each in used])
    error = float((np.abs(predicted - observed) * counts).sum() / counts.sum())
    return Reliability(predicted, observed, counts, error)
