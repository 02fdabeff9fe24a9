"""Calibration, reliability and risk written down plainly: no weights, no bootstrap, one loop for each definition."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

LEVELS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
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
        levels=np.array(LEVELS),
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


@dataclass(frozen=True)
class RiskCoverage:
    """The risk `(slice,)` from the surest decision on, and the areas under the curve and of the best possible order."""

    risk: np.ndarray
    area: float
    best_area: float


def risk_coverage(wrong: np.ndarray, doubt: np.ndarray) -> RiskCoverage:
    """Return the curve of decisions `wrong` bool `(slice,)`, in the order of their `doubt`, the smallest first.

    Where doubts are equal, each of them has the mean of what they do together: their order is chance.
    """
    risk, best = _risks(wrong.astype(float), doubt), _risks(wrong.astype(float), wrong.astype(float))
    return RiskCoverage(risk, float(risk.mean()), float(best.mean()))


def _risks(wrong: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    order = np.argsort(doubt, kind="stable")
    _, group = np.unique(doubt[order], return_inverse=True)
    mean = np.bincount(group, weights=wrong[order]) / np.bincount(group)
    return np.asarray(np.cumsum(mean[group]) / np.arange(1, len(wrong) + 1))
